"""Hold one module for each command; :mod:`fairseq_ats.cli.main` runs them."""
