"""Benchmark the training loop, the training step alone and the standard pipeline, without Ray."""
