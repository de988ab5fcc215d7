"""Register the task and the optimizer, and change fairseq and PyTorch for this process."""

from fairseq_ats.checkpoints.reading import allow_fairseq_checkpoints
from fairseq_ats.host.checkpoint_copies import write_whole_checkpoints
from fairseq_ats.host.launch import check_launches
from fairseq_ats.host.warnings import silence_known_warnings
from fairseq_ats.modules import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.optim import FairseqAdamForPartitionedModel
from fairseq_ats.tasks.translation_with_partitioned_model import TranslationWithPartitionedModelTask

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
