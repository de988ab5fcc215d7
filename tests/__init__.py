"""Tests of the plugin. Importing them imports fairseq, without scikit-learn and SciPy, which the tests seldom need."""

import os
import sys
from itertools import pairwise
from pathlib import Path


def _hands_out_tests(words: list[str]) -> bool:
    """Whether this is the first process of pytest-xdist, which runs no test: its workers would wait for its imports."""
    if "PYTEST_XDIST_WORKER" in os.environ or "--pdb" in words:
        return False
    workers = [(word[2:] or following).lstrip("=") for word, following in pairwise([*words, ""]) if word[:2] == "-n"]
    return bool(workers) and workers[-1] != "0"


HANDS_OUT_TESTS = _hands_out_tests(sys.argv[1:])

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
