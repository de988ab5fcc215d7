"""Keep what was measured: a JSON file for each run, and the hypotheses of its networks.

RESULTS/RECIPE/ROW.seedN.json                            all that a table needs to know of a run
RESULTS/RECIPE/ROW.seedN.curve.jsonl                     its learning curve, a line for each validation
RESULTS/hypotheses/RECIPE/ROW.seedN.NETWORK.SET.txt.gz   a network's translations of a test set

A record stands alone: a table can be drawn, and the records of several machines can be put together, without the
checkpoints. Scores stand under the network and the test set that they belong to.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ats.files import written_whole

Record = dict[str, Any]
Curve = list[dict[str, float]]  # of each validation: updates, flops, and metrics under fairseq's names
RunKey = tuple[str, int]  # row, seed
TEST = "test"  # the set that tables show


@dataclass(frozen=True)
class Records:
    """The records of one recipe.

    Args:
        results: folder of the results of all recipes.
    """

    results: Path
    recipe: str

    @property
    def folder(self) -> Path:
        return self.results / self.recipe

    def read(self) -> dict[RunKey, Record]:
        """Return every record, in the order of rows and seeds.

        Raises:
            ValueError: a file is no record, or has the name of another one.
        """
        found = (_read(path) for path in self.folder.glob("*.json"))
        return dict(sorted(((record["row"], record["seed"]), record) for record in found))

    def write(self, record: Record, hypotheses: Mapping[str, Sequence[str]] | None = None) -> None:
        """Write a run's record, after the hypotheses of its networks.

        Args:
            hypotheses: network → translations of the test set; networks that are not named keep theirs.
        """
        for network, lines in (hypotheses or {}).items():
            path = self._hypotheses_file(record, network)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as temporary:
                # Without name and time: the same lines are the same bytes.
                temporary.write_bytes(gzip.compress(_text(lines), mtime=0))
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.folder / _file_name(record)) as temporary:
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def write_curve(self, record: Record, curve: Curve) -> None:
        """Write a run's learning curve."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self._curve_file(record)) as temporary:
            temporary.write_text("".join(json.dumps(point) + "\n" for point in curve), encoding="utf-8")

    def curve(self, record: Record) -> Curve | None:
        """Return a run's learning curve; None if there is none."""
        path = self._curve_file(record)
        return list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.is_file() else None

    def _curve_file(self, record: Record) -> Path:
        return self.folder / f"{_file_name(record).removesuffix('.json')}.curve.jsonl"

    def hypotheses(self, record: Record, network: str) -> list[str] | None:
        """Return a network's translations of the test set; None if the file is missing or belongs to another record."""
        path = self._hypotheses_file(record, network)
        if not path.is_file():
            return None
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").removesuffix("\n").split("\n")
        return lines if digest(lines) == scores_of(record, network)["hypotheses_sha256"] else None

    def _hypotheses_file(self, record: Record, network: str) -> Path:
        name = _file_name(record).removesuffix(".json")
        return self.results / "hypotheses" / self.recipe / f"{name}.{network}.{TEST}.txt.gz"


def scores_of(record: Record, network: str) -> dict[str, Any]:
    """Return what a network of a run scores on the test set."""
    return record["networks"][network]["tests"][TEST]


def digest(lines: Sequence[str]) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(_text(lines)).hexdigest()


def _text(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8")


def _file_name(record: Record) -> str:
    return f"{record['row']}.seed{record['seed']}.json"


def _read(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        name = _file_name(record)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a run: {error!r}") from error
    if name != path.name:
        raise ValueError(f"{path} is the record of another run; its name must be {name}")
    return record
