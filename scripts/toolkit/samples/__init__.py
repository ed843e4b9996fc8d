"""Generated documents with exact gold."""
