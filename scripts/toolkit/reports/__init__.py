"""The HTML pages, each a module and its template."""
