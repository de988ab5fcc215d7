"""fairseq plugin: train a Transformer together with its core network by alternating training (ATS).

Importing the package, which ``--user-dir`` does, registers the task ``translation_with_partitioned_model`` and the
optimizer ``adam_for_partitioned_model``, and changes fairseq and PyTorch for this process (:mod:`fairseq_ats.host`).

Two exceptions save seconds and gigabytes. Without fairseq in the environment there is nothing to register with, and
:mod:`fairseq_ats.translate` runs the folders of ``fairseq-ats convert`` there. And in the process of the command
``fairseq-ats`` each sub-command imports :mod:`fairseq_ats.plugin` if it needs it: the help, the translation of such a
folder, and those that only start other programs, do without. So do the programs of the repository that prepare text
or draw what logs say.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

_PROGRAMS = ("fairseq_ats.cli", "scripts.data.prepare", "scripts.figures.criteria", "scripts.figures.theory")
_IS_COMMAND = Path(sys.argv[0]).name == "fairseq-ats" or sys.orig_argv[1:3] in [["-m", name] for name in _PROGRAMS]

if not _IS_COMMAND and find_spec("fairseq") is not None:
    from fairseq_ats.plugin import *  # noqa: F403
