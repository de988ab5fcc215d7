"""Describe how a model is split: the partition, the names of its networks, and the levels of each parameter."""
