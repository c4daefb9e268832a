"""Training on Ray: a plan through TorchTrainer, a search through Tuner. Only this package imports ray at module level."""
