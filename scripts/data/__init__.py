"""Public data sets: downloading, cleaning and binarising, behind the scripts ``prepare_*.sh``."""
