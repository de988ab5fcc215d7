"""Stands for SciPy, as ``sklearn`` beside it for scikit-learn."""
