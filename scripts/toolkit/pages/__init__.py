"""PDFs and pictures become page images; their names, sizes, text layer, and where a value stands on them."""
