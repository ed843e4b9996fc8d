"""The model and its contract: loading, encoding, adapters, model folders, quantization, the tiny model."""
