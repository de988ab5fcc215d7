from fairseq_ats.optim.adam_for_partitioned_model import FairseqAdamForPartitionedModel

__all__ = ["FairseqAdamForPartitionedModel"]
