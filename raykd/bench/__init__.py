"""Benchmark the training loop against its bare step and against a conventional implementation, without Ray."""
