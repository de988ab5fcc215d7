from fairseq_ats.modules.fast_dropout import FastDropout
from fairseq_ats.modules.partitioned_attention import PartitionedMultiheadAttention
from fairseq_ats.modules.partitioned_linear import PartitionedLinear
from fairseq_ats.modules.partitioned_rank_linear import PartitionedRankLinear

__all__ = ["FastDropout", "PartitionedLinear", "PartitionedMultiheadAttention", "PartitionedRankLinear"]
