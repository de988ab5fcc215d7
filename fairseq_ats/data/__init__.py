"""Check and read binarised data and text."""
