from fairseq_ats.optim.adam_for_partitioned_model import OPTIMIZER_NAME, FairseqAdamForPartitionedModel, adam_problems

__all__ = ["OPTIMIZER_NAME", "FairseqAdamForPartitionedModel", "adam_problems"]
