"""Choose among the checkpoints that a run kept: the last ones, or the best ones of one network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ats.checkpoints import names as checkpoint_names
from fairseq_ats.checkpoints.keys import states_of
from fairseq_ats.checkpoints.reading import partition_of, read_header, updates_of
from fairseq_ats.checkpoints.saved_options import saved_options
from fairseq_ats.partition.names import Networks
from fairseq_ats.partition.partition import Partition


@dataclass(frozen=True)
class Validated:
    """A checkpoint and the validation score of one network in it.

    Args:
        path: the file.
        updates: the number of updates before the validation.
        metric: the name of the validation metric.
        value: the value of the metric.
        maximize: larger values are better.
    """

    path: str
    updates: int
    metric: str
    value: float
    maximize: bool


def last(run: Path, count: int, within_epochs: bool = False, suffix: str = "") -> list[str]:
    """Return the paths of the last ``count`` checkpoints of one kind, oldest first.

    ``--max-update`` mostly ends a run within an epoch. fairseq then writes no file of that epoch, though its updates
    have the lowest learning rates of all. Such an epoch counts here: ``checkpoint_last.pt`` stands for it.

    Args:
        run: the folder of the run.
        within_epochs: take checkpoints that were written within an epoch, and not those of the end of an epoch.
        suffix: the run's ``--checkpoint-suffix``.

    Raises:
        ValueError: the folder has fewer than ``count`` of them.
    """
    if within_epochs:
        option, pattern = "--last-updates", checkpoint_names.of_updates(suffix)
        kind = "within an epoch; fairseq-train keeps them with --save-interval-updates"
    else:
        option, pattern = "--last-epochs", checkpoint_names.of_epochs(suffix)
        kind = "of an epoch; fairseq-train keeps them without --no-epoch-checkpoints"
    matches = [(pattern.fullmatch(path.name), path) for path in run.iterdir()]
    found = [str(path) for _, path in sorted((int(match.group(1)), path) for match, path in matches if match)]
    final = str(run / checkpoint_names.last_checkpoint(suffix))
    if found and not within_epochs and os.path.isfile(final):
        latest, end = (updates_of(read_training_checkpoint(path)) for path in (found[-1], final))
        if end > latest:
            found.append(final)
    if len(found) < count:
        raise ValueError(f"{option} is {count} and {run} has {len(found)} checkpoint(s) {kind}")
    return found[-count:]


def best(run: Path, count: int, network: str | None = None, suffix: str = "") -> list[Validated]:
    """Return the ``count`` best checkpoints of one network of a run, best first.

    Compare by the run's ``--best-checkpoint-metric``, or by the same metric of another network. Count several files of
    the same update once.

    Args:
        run: the folder of the run.
        network: "core", "super", "level2", ...; None means the highest network that the run trained.
        suffix: the run's ``--checkpoint-suffix``; checkpoints of other runs may lie in the same folder.

    Raises:
        ValueError: the run has fewer than ``count`` validated checkpoints, or has no such network.
    """
    read = {str(path): read_training_checkpoint(str(path)) for path in sorted(run.glob("checkpoint*.pt"))}
    checkpoints = {path: checkpoint for path, checkpoint in read.items() if _suffix_of(checkpoint) == suffix}
    partitions = {path: partition_of(checkpoint.get("task_state")) for path, checkpoint in checkpoints.items()}
    # A network that was extracted from the run may lie in the same folder; it has fewer levels than the run.
    of_run = max(partitions.values(), key=lambda partition: partition.max_level if partition else 0, default=None)
    by_update: dict[int, Validated] = {}
    for path, checkpoint in checkpoints.items():
        if partitions[path] != of_run:
            continue
        found = _validation_of(path, checkpoint, of_run, network)
        if found is not None:
            by_update.setdefault(found.updates, found)
    latest_first = sorted(by_update.values(), key=lambda found: found.updates, reverse=True)
    # A resumed run may have changed its metric; values of different metrics cannot be compared.
    comparable = [found for found in latest_first if found.metric == latest_first[0].metric]
    if len(comparable) < count:
        states = [states_of(c["extra_state"]) for c in checkpoints.values()]
        older = sum(any("value" not in state for state in of_checkpoint) for of_checkpoint in states)
        raise ValueError(
            f"--best is {count} and {run} has {len(comparable)} checkpoint(s) that were validated; fairseq-train keeps "
            "one of each epoch without --no-epoch-checkpoints, and the best of the network that "
            "--best-checkpoint-metric names with --keep-best-checkpoints"
            + f"; {older} of an older version lack the value of the network that it does not name"
            * bool(older)
        )
    return sorted(comparable, key=lambda found: -found.value if found.maximize else found.value)[:count]


def _suffix_of(checkpoint: Mapping[str, Any]) -> str:
    return saved_options(checkpoint, "checkpoint").get("checkpoint_suffix") or ""


def read_training_checkpoint(path: str, read: Callable[[str], dict[str, Any]] = read_header) -> dict[str, Any]:
    """Read a checkpoint with ``read``, and check that a training wrote it.

    Raises:
        ValueError: there is no such file, it is not a whole checkpoint, or it lacks an entry that a training writes.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file")
    checkpoint = read(path)
    missing = {"cfg", "optimizer_history", "extra_state"} - checkpoint.keys()
    if missing:
        raise ValueError(f"{path} was not written by fairseq-train: it has no {', '.join(sorted(missing))}")
    return checkpoint


def _validation_of(
    path: str, checkpoint: Mapping[str, Any], partition: Partition | None, network: str | None
) -> Validated | None:
    """Return the validation score of one network; None for a checkpoint that was not validated, and for an average.

    Raises:
        ValueError: the checkpoint has no such network.
    """
    extra_state = checkpoint["extra_state"]
    options = saved_options(checkpoint, "checkpoint")
    metric = options["best_checkpoint_metric"]
    networks = Networks.of(partition)
    network = network or networks.names[-1]
    if network not in networks.names:
        raise ValueError(f"--network is {network} and {path} holds {', '.join(networks.names)}")
    followed, plain = networks.split_metric(metric)
    if network == followed:
        value = extra_state.get("val_loss")  # fairseq's entry, named val_loss for every metric
    else:
        wanted = networks.metric_name(networks.level(network), plain)
        states = states_of(extra_state)
        # A run of two networks saves one entry: the entry of the network that fairseq does not follow.
        ours = states[0] if len(states) == 1 else next((s for s in states if s["metric"] == wanted), {})
        metric, value = ours.get("metric"), ours.get("value")
    if value is None:
        return None
    return Validated(path, updates_of(checkpoint), metric, value, options["maximize_best_checkpoint_metric"])
