"""fairseq plugin: train a Transformer together with its core network by alternating training (ATS).

Importing the package, which ``--user-dir`` does, registers the task ``translation_with_partitioned_model`` and the
optimizer ``adam_for_partitioned_model``, lets torch read fairseq's checkpoints, and silences known harmless warnings.
"""

from fairseq_ats.checkpoints.reading import allow_fairseq_checkpoints
from fairseq_ats.host.checkpoint_copies import write_whole_checkpoints
from fairseq_ats.host.launch import check_launches
from fairseq_ats.host.warnings import silence_known_warnings
from fairseq_ats.modules import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.optim import FairseqAdamForPartitionedModel
from fairseq_ats.tasks.translation_with_partitioned_model import TranslationWithPartitionedModelTask

__version__ = "0.1.0"

__all__ = [
    "FairseqAdamForPartitionedModel",
    "PartitionedLinear",
    "PartitionedRankLinear",
    "TranslationWithPartitionedModelTask",
]

allow_fairseq_checkpoints()
silence_known_warnings()
write_whole_checkpoints()
check_launches()
