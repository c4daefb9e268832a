"""Training on Ray: plans through TorchTrainer, searches through Tuner. Only this package imports ray at module level."""
