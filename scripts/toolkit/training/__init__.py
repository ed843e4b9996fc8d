"""A training run: settings, memory plan, batches, trainer, validation, log."""
