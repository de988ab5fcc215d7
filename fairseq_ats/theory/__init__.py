"""Measure the paper's quantities."""
