"""Take one network of a checkpoint out: ``fairseq-ats-convert``, or ``python -m fairseq_ats.convert``."""

from fairseq_ats.convert.conversion import convert
from fairseq_ats.convert.core_checkpoint import CoreCheckpoint
from fairseq_ats.convert.ctranslate2_model import CTranslate2Model
from fairseq_ats.convert.onnx_model import OnnxModel
from fairseq_ats.convert.stock_checkpoint import StockCheckpoint

__all__ = ["CTranslate2Model", "CoreCheckpoint", "OnnxModel", "StockCheckpoint", "convert"]
