"""Text in, text out: from a checkpoint, or from a folder that ``fairseq-ats-convert`` wrote.

::

    from fairseq_ats.translate import Translator

    translate = Translator("RUN/checkpoint_best_core.pt", level="core")
    translate("A dog runs on the beach.")

``translator.py`` takes lines through an engine, in order; ``text.py`` makes pieces of lines and lines of pieces;
``*_engine.py`` make pieces of one language into pieces of the other.
"""

from fairseq_ats.translate.translator import Translator

__all__ = ["Translator"]
