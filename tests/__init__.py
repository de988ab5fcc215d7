"""Tests of the plugin. Importing them imports fairseq, without scikit-learn and SciPy, which the tests seldom need."""

import os
import sys
from pathlib import Path

# The first process of pytest-xdist runs no test: its workers would wait for its imports.
HANDS_OUT_TESTS = "PYTEST_XDIST_WORKER" not in os.environ and any(word.startswith("-n") for word in sys.argv[1:])

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


if not HANDS_OUT_TESTS:
    _import_fairseq()
