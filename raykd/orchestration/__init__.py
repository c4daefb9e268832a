"""Training on Ray: plans by TorchTrainer, searches by Tuner. Only this package imports ray at module level."""
