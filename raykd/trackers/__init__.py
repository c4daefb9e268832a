"""Copy runs into MLflow and W&B. TensorBoard's files are written by the training itself (training/tensorboard.py)."""
