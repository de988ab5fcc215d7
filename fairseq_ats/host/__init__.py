"""Change how fairseq and PyTorch behave in this process. This package holds every such change.

:func:`apply` makes the changes that hold for the whole process; it runs when the plugin is imported. The task makes the
other changes where they are needed: :mod:`~fairseq_ats.host.batches` (data loaders that leak memory),
:mod:`~fairseq_ats.host.amp` (gradients that are unscaled twice), :mod:`~fairseq_ats.host.patience` (a count that is not
saved) and :mod:`~fairseq_ats.host.log_file` (a log file that each epoch opens again).
"""

from fairseq_ats.host.checkpoint_copies import copy_checkpoints_whole
from fairseq_ats.host.launch import refuse_launches_without_workers
from fairseq_ats.host.safe_globals import allow_fairseq_checkpoints
from fairseq_ats.host.safetensors_loading import read_safetensors
from fairseq_ats.host.warnings import silence_known_warnings


def apply() -> None:
    """Make the changes to fairseq and PyTorch that hold for the rest of this process."""
    allow_fairseq_checkpoints()
    silence_known_warnings()
    copy_checkpoints_whole()
    read_safetensors()
    refuse_launches_without_workers()
