"""Make pages of docs/ from the code."""
