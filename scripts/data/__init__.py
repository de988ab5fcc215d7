"""Download, clean and binarise public data sets, for the scripts ``prepare_*.sh``."""
