"""Read the log of a training (``--log-file``) in fairseq's formats "simple" and "json"; a progress bar logs "simple".

Stock fairseq repeats a line for each epoch that the process has begun (:mod:`fairseq_ats.host.log_file`). A resumed run
repeats what came after its checkpoint. So the last line of an update, or of an epoch, counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

_SIMPLE = re.compile(r"epoch (\d+) \| (valid on '[^']*' subset \| )?(.*)")
_PROCESS = "{'_name'"  # the options of a process, fairseq_cli/train.py, main
_BEGIN = "Start iterating over samples"  # fairseq_cli/train.py, train
_END = "done training in"  # fairseq_cli/train.py, main

Point = dict[str, float]


@dataclass(frozen=True)
class TrainingLog:
    """Numbers of a run.

    Args:
        epochs: number of the epoch → averages over its updates, under fairseq's names.
        processes: number of the epoch → number of the process that ended it; a resumed run has several processes.
        validations: number of updates → results of the validation.
        is_finished: the training came to its end and did not begin again.
    """

    epochs: dict[int, Point]
    processes: dict[int, int]
    validations: dict[int, Point]
    is_finished: bool

    @classmethod
    def read(cls, path: Path) -> TrainingLog:
        """Read a log, which a training may still be writing."""
        epochs: dict[int, Point] = {}
        processes: dict[int, int] = {}
        validations: dict[int, Point] = {}
        is_finished, process = False, 0
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(_PROCESS):
                    process += 1
                elif line.startswith(_BEGIN):
                    is_finished = False
                elif line.startswith(_END):
                    is_finished = True
                elif (found := _parse(line)) is not None:
                    epoch, is_valid, point = found
                    if is_valid:
                        validations[int(point["num_updates"])] = point
                    else:
                        epochs[epoch], processes[epoch] = point, process
        return cls(epochs, processes, dict(sorted(validations.items())), is_finished)

    @property
    def updates(self) -> int:
        """Return the number of updates of the whole run; a validation is logged before the end of its epoch."""
        return max([*self.validations, *(int(point["num_updates"]) for point in self.epochs.values())], default=0)

    @property
    def tokens_per_update(self) -> float:
        """Return the average number of target tokens without padding."""
        return self._mean("wpb")

    @property
    def sentences_per_update(self) -> float:
        """Return the average number of sentence pairs."""
        return self._mean("bsz")

    def _mean(self, name: str) -> float:
        """Return the mean over all updates of what is logged for each epoch.

        Raises:
            ValueError: no epoch has ended.
        """
        if not self.epochs:
            raise ValueError("no epoch has ended")
        total, before = 0.0, 0.0
        for epoch in sorted(self.epochs):
            point = self.epochs[epoch]
            total += point[name] * (point["num_updates"] - before)
            before = point["num_updates"]
        return total / before

    @property
    def train_seconds(self) -> float:
        """Return the seconds in updates, over all epochs, without validations, saving and reading data."""
        return sum(point["train_wall"] for point in self.epochs.values())

    @property
    def wall_seconds(self) -> float:
        """Return the seconds of training processes up to the end of the last epoch, without what interruptions lost."""
        # A resumed run starts fairseq's clock again (fairseq/trainer.py:657).
        walls: dict[int, float] = {}
        for epoch, process in self.processes.items():
            walls[process] = max(walls.get(process, 0.0), self.epochs[epoch]["wall"])
        return sum(walls.values())


def _parse(line: str) -> tuple[int, bool, Point] | None:
    """Return the epoch, whether a validation wrote the line, and its numbers; None for any other line."""
    if line.startswith("{"):
        return _parse_json(line)
    match = _SIMPLE.match(line)
    if match is None:
        return None
    epoch, valid, rest = match.groups()
    pairs = (field.split(" ") for field in rest.strip().split(" | "))
    point = _numbers({pair[0]: pair[1] for pair in pairs if len(pair) == 2})
    return (int(epoch), valid is not None, point) if "num_updates" in point else None


def _parse_json(line: str) -> tuple[int, bool, Point] | None:
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return None  # the options at the head, or a line that is being written
    for prefix in ("train_", "valid_"):
        of_prefix = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        if "num_updates" in of_prefix:
            return int(values["epoch"]), prefix == "valid_", _numbers(of_prefix)
    return None


def _numbers(values: dict[str, object]) -> Point:
    result = {}
    for name, value in values.items():
        try:
            result[name] = float(str(value))
        except ValueError:
            continue  # "None": the metric has no value yet
    return result
