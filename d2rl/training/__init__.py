"""A training run: trainer, callbacks, checkpoints."""
