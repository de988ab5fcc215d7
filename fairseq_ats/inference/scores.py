"""Score translations: BLEU and chrF by sacreBLEU, and COMET where a person has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sacrebleu

from fairseq_ats.data.lines import count_lines, read_lines

TEST = "test"  # the name of the test set that is part of the binarised data


@dataclass(frozen=True)
class TestSet:
    """Raw text in both languages, line by line."""

    __test__ = False  # pytest takes classes with this name for tests

    name: str
    sources: list[str]
    references: list[str]


def read_test_sets(folder: Path, source: str, target: str) -> list[TestSet]:
    """Return the test sets of a folder, in the order of their names: the files ``NAME.SOURCE`` and ``NAME.TARGET``.

    Raises:
        ValueError: there is none, a side is missing or has another number of lines, or a name is ``test``.
    """
    names = sorted({path.stem for language in (source, target) for path in folder.glob(f"*.{language}")})
    if not names:
        raise ValueError(f"--tests is {folder}, which has no files NAME.{source} and NAME.{target}")
    if TEST in names:
        raise ValueError(f"--tests is {folder}, which has a set named {TEST}, as the data have; give it another name")
    sets = []
    for name in names:
        paths = [folder / f"{name}.{language}" for language in (source, target)]
        for path in paths:
            if not path.is_file():
                raise ValueError(f"--tests is {folder}, where {name} has no {path.name}")
        sources, references = (list(read_lines(path)) for path in paths)
        if len(sources) != len(references):
            raise ValueError(f"{paths[0]} has {len(sources):,} lines and {paths[1]} has {len(references):,}")
        count_lines(references, paths[1])
        sets.append(TestSet(name, sources, references))
    return sets


class Scorer:
    """Metrics of one run.

    Args:
        lowercase: the data are lower-cased, so case does not count.
        comet: a checkpoint of COMET (``unbabel-comet``); None leaves COMET out.

    Raises:
        ValueError: ``comet`` is not a file, or the package is missing.
    """

    def __init__(self, lowercase: bool = False, comet: Path | None = None) -> None:
        self._bleu = sacrebleu.BLEU(lowercase=lowercase)
        self._chrf = sacrebleu.CHRF(lowercase=lowercase)
        self._comet = None if comet is None else _load_comet(comet)
        self._comet_name = None if comet is None else comet.name

    def scores(self, tests: TestSet, hypotheses: list[str]) -> dict[str, Any]:
        """Return each metric's score (BLEU and chrF from 0 to 100), and sacreBLEU's signatures."""
        found: dict[str, Any] = {
            "bleu": self._bleu.corpus_score(hypotheses, [tests.references]).score,
            "signature": str(self._bleu.get_signature()),
            "chrf": self._chrf.corpus_score(hypotheses, [tests.references]).score,
            "chrf_signature": str(self._chrf.get_signature()),
        }
        if self._comet is not None:
            rows = [
                {"src": source, "mt": hypothesis, "ref": reference}
                for source, hypothesis, reference in zip(tests.sources, hypotheses, tests.references, strict=True)
            ]
            prediction = self._comet.predict(rows, batch_size=16, gpus=0, progress_bar=False)
            found |= {"comet": float(prediction.system_score), "comet_model": self._comet_name}
        return found


def _load_comet(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"--comet is {path}, which is not a file; allowed: a checkpoint of COMET")
    try:
        from comet import load_from_checkpoint
    except ImportError as error:
        raise ValueError(f"--comet needs the package unbabel-comet (pip install unbabel-comet): {error}") from error
    return load_from_checkpoint(str(path))
