"""Benchmark the training loop against its step without the loop and against the standard pipeline, without Ray."""
