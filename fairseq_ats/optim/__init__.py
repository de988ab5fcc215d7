from fairseq_ats.optim.adam_for_partitioned_model import OPTIMIZER_NAME, FairseqAdamForPartitionedModel, adam_problems
from fairseq_ats.optim.sgd_for_partitioned_model import SGD_NAME, FairseqSGDForPartitionedModel, sgd_problems

# The optimizers with a mask, and what checks their options.
MASKED_OPTIMIZERS = {OPTIMIZER_NAME: adam_problems, SGD_NAME: sgd_problems}

__all__ = ["MASKED_OPTIMIZERS", "OPTIMIZER_NAME", "FairseqAdamForPartitionedModel", "FairseqSGDForPartitionedModel"]
