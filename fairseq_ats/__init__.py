"""fairseq plugin: train a Transformer together with its core network by alternating training (ATS).

Importing the package, which ``--user-dir`` does, registers the task ``translation_with_partitioned_model`` and the
optimizer ``adam_for_partitioned_model``, and changes fairseq and PyTorch for this process (:mod:`fairseq_ats.host`).
"""

from fairseq_ats import host
from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.modules import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim import FairseqAdamForPartitionedModel
from fairseq_ats.partition.partition import Partition
from fairseq_ats.schemes.schedule import Schedule
from fairseq_ats.tasks.translation_with_partitioned_model import TranslationWithPartitionedModelTask

__version__ = "0.1.0"

__all__ = [
    "FairseqAdamForPartitionedModel",
    "Partition",
    "PartitionedLinear",
    "PartitionedRankLinear",
    "Schedule",
    "TranslationWithPartitionedModelTask",
    "partition_model_",
    "use_level",
]

host.apply()
