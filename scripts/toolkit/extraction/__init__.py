"""Documents in, predictions out: the local model, the server client, and the judge of answers."""
