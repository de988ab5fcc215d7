"""Convert one network of a checkpoint to another format: ``fairseq-ats-convert``."""

from fairseq_ats.convert.conversion import convert
from fairseq_ats.convert.formats.core import CoreCheckpoint
from fairseq_ats.convert.formats.ctranslate2 import CTranslate2Model
from fairseq_ats.convert.formats.fairseq import StockCheckpoint
from fairseq_ats.convert.formats.huggingface import HuggingFaceModel
from fairseq_ats.convert.formats.onnx import OnnxModel

__all__ = ["CTranslate2Model", "CoreCheckpoint", "HuggingFaceModel", "OnnxModel", "StockCheckpoint", "convert"]
