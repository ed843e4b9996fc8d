"""What a model writes: wire format, shards, tokens and confidence, page windows, prediction lines."""
