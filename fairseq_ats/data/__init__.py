"""Make, check and read binarised data and text."""
