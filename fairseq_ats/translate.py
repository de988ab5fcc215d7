"""Translate text with a checkpoint, or with a folder that ``fairseq-ats-convert`` wrote.

::

    from fairseq_ats.translate import Translator

    translate = Translator("RUN/checkpoint_best_core.pt", level="core")
    translate("A dog runs on the beach.")
"""

from fairseq_ats.inference.translator import Translator

__all__ = ["Translator"]
