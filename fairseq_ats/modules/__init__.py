from fairseq_ats.modules.attention import PartitionedMultiheadAttention
from fairseq_ats.modules.dropout import FastDropout
from fairseq_ats.modules.linear import PartitionedLinear
from fairseq_ats.modules.rank_linear import PartitionedRankLinear

__all__ = ["FastDropout", "PartitionedLinear", "PartitionedMultiheadAttention", "PartitionedRankLinear"]
