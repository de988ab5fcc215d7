"""Change what fairseq and PyTorch do in this process. Every change of the host stands in this room.

:func:`apply` makes the changes that hold for a whole process, when the plugin is imported. The others are called by the
task at their place: :mod:`~fairseq_ats.host.batches` (loaders that leak), :mod:`~fairseq_ats.host.amp` (gradients that
are unscaled twice) and :mod:`~fairseq_ats.host.patience` (a count that is not saved).
"""

from fairseq_ats.host.checkpoint_copies import copy_checkpoints_whole
from fairseq_ats.host.launch import refuse_launches_without_workers
from fairseq_ats.host.safe_globals import allow_fairseq_checkpoints
from fairseq_ats.host.warnings import silence_known_warnings


def apply() -> None:
    """Change fairseq and PyTorch for the rest of this process."""
    allow_fairseq_checkpoints()
    silence_known_warnings()
    copy_checkpoints_whole()
    refuse_launches_without_workers()
