"""The target schema: what to extract, the kinds of values, and the business checks."""
