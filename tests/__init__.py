"""Tests of the plugin. Importing them imports fairseq, without scikit-learn and SciPy, which the tests seldom need."""

import sys
from pathlib import Path

# On PYTHONPATH it spares a process three seconds.
STAND_INS = Path(__file__).with_name("support") / "stand_ins"


def _import_fairseq() -> None:
    """What was imported instead of scikit-learn and SciPy is forgotten again: a later import finds the real ones."""
    if "fairseq" in sys.modules:
        return
    before = set(sys.modules)
    sys.path.insert(0, str(STAND_INS))
    import fairseq  # noqa: F401

    sys.path.remove(str(STAND_INS))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("sklearn", "scipy"):
            del sys.modules[name]


_import_fairseq()
