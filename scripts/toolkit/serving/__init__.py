"""The vLLM server and the gateway in front of it."""
