"""Training records: labels joined with page images, the prompt, checks, fingerprints and splits."""
