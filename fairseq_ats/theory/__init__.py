"""Measure the quantities of the paper's convergence theory."""
