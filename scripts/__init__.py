"""What a person runs in a checkout, and in folders what is behind it: ``python -m scripts.benchmarks.training``."""
