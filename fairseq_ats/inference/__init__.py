"""Load one network of a checkpoint or of a folder, translate with it, and evaluate it."""
