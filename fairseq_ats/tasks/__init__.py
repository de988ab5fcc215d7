"""Hold one module for each fairseq task; fairseq imports every module of this folder (fairseq/tasks/__init__.py)."""
