"""Register tasks, models, criterion and optimizers; change fairseq and PyTorch for the whole process."""

from fairseq_ats import host
from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.modules import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.modules.fused_loss import FusedLabelSmoothedCrossEntropy
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim import FairseqAdamForPartitionedModel, FairseqSGDForPartitionedModel
from fairseq_ats.partition.partition import Partition
from fairseq_ats.schemes.schedule import Schedule
from fairseq_ats.tasks.image_classification_with_partitioned_model import (
    ImageClassificationWithPartitionedModelTask,
)
from fairseq_ats.tasks.translation_with_partitioned_model import TranslationWithPartitionedModelTask

__all__ = [
    "FairseqAdamForPartitionedModel",
    "FairseqSGDForPartitionedModel",
    "FusedLabelSmoothedCrossEntropy",
    "ImageClassificationWithPartitionedModelTask",
    "Partition",
    "PartitionedLinear",
    "PartitionedRankLinear",
    "Schedule",
    "TranslationWithPartitionedModelTask",
    "partition_model_",
    "use_level",
]

host.apply()
