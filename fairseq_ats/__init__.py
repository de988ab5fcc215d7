"""fairseq plugin: train a Transformer together with its core network by alternating training (ATS).

Importing the package, which ``--user-dir`` does, registers the task ``translation_with_partitioned_model`` and the
optimizer ``adam_for_partitioned_model``, and changes fairseq and PyTorch for this process (:mod:`fairseq_ats.host`).
"""

import sys
from pathlib import Path

__version__ = "0.1.0"

# In the process of the command ``fairseq-ats``, each sub-command imports the plugin if it needs it: the help, and those
# that only start other programs, do not wait seconds for torch and fairseq.
if Path(sys.argv[0]).name != "fairseq-ats" and sys.orig_argv[1:3] != ["-m", "fairseq_ats.cli"]:
    from fairseq_ats.plugin import *  # noqa: F403
