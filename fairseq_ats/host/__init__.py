"""Change what fairseq and PyTorch do in this process; every change of the host stands here."""
