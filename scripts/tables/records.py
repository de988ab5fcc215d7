"""What was measured, on disk: ``RESULTS/RECIPE.jsonl``, one line per run, and the hypotheses beside it.

A line is the whole of what a table needs to know of a run, so that a table can be drawn, and filled further, where the
run's checkpoints are not.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq_ats.files import written_whole

Record = dict[str, Any]
RunKey = tuple[str, int]  # row, seed


class Records:
    """The lines of one recipe.

    Args:
        results: folder of all recipes' results.
    """

    def __init__(self, results: Path, recipe: str) -> None:
        self.path = results / f"{recipe}.jsonl"
        self.comparisons_path = results / f"{recipe}.comparisons.jsonl"
        self.hypotheses_folder = results / recipe

    def runs(self) -> dict[RunKey, Record]:
        """Every recorded run.

        Raises:
            ValueError: a line that is no JSON object with a row and a seed.
        """
        return _read(self.path, _key_of_run)

    def comparisons(self) -> dict[tuple, Record]:
        """Every comparison of two networks, by row, network and seed."""
        return _read(self.comparisons_path, key_of_comparison)

    def add_run(self, record: Record, hypotheses: dict[str, list[str]]) -> None:
        """The hypotheses of each network, then the line, which replaces one of the same run."""
        self.hypotheses_folder.mkdir(parents=True, exist_ok=True)
        for network, lines in hypotheses.items():
            with written_whole(self._hypotheses_path(_key_of_run(record), network)) as path:
                path.write_bytes(_compressed(lines))
        _add(self.path, record, _key_of_run)

    def add_comparison(self, record: Record) -> None:
        _add(self.comparisons_path, record, key_of_comparison)

    def hypotheses(self, run: RunKey, network: str) -> list[str] | None:
        """None if the file is not there, or is not that of the line."""
        path = self._hypotheses_path(run, network)
        if not path.is_file():
            return None
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
        lines = text.removesuffix("\n").split("\n")
        return lines if digest(lines) == self.runs()[run]["networks"][network]["hypotheses_sha256"] else None

    def _hypotheses_path(self, run: RunKey, network: str) -> Path:
        row, seed = run
        return self.hypotheses_folder / f"{row}.seed{seed}.{network}.txt.gz"


def digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("".join(line + "\n" for line in lines).encode("utf-8")).hexdigest()


def key_of_comparison(record: Record) -> tuple:
    return record["row"], record["network"], int(record["seed"])


def _key_of_run(record: Record) -> RunKey:
    return record["row"], int(record["seed"])


def _compressed(lines: Sequence[str]) -> bytes:
    """The same bytes for the same lines: no name and no time in the header."""
    return gzip.compress("".join(line + "\n" for line in lines).encode("utf-8"), mtime=0)


def _read(path: Path, key: Callable[[Record], tuple]) -> dict[tuple, Record]:
    if not path.is_file():
        return {}
    result = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            result[key(record)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no record: {error!r}") from error
    return result


def _add(path: Path, record: Record, key: Callable[[Record], tuple]) -> None:
    """A new line, or another one in the place of that with the same key; the file is old or new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(path.parent):
        lines = _read(path, key)
        lines[key(record)] = record
        with written_whole(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines.values()), encoding="utf-8")


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Other processes that add to the folder's files wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
