"""The parts of gpu_report.py: one module a part, each with a function `measure(part, setting)`."""
