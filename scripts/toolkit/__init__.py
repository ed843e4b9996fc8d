"""The only shared code of the scripts: one noun per file. It never imports a script and never parses arguments."""
