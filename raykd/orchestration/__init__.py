"""What runs on the cluster: the plan through TorchTrainer, the search through Tuner. The room that imports ray."""
