"""Take one network of a checkpoint out: ``fairseq-ats-convert``, or ``python -m fairseq_ats.convert``."""

from fairseq_ats.convert.conversion import convert

__all__ = ["convert"]
