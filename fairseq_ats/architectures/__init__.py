"""Say where a family of models is split."""
