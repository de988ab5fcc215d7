"""Restore what fairseq does not restore when a run is resumed, so that it goes on as if it had never stopped.

fairseq restores weights, optimizer, learning rate and the place in the data (for the batches themselves see
:mod:`fairseq_ats.host.batches`). It restores its metrics only in part and its patience not at all, and it goes on with
a run that is finished.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from fairseq.logging import meters, metrics

from fairseq_ats.checkpoints.reading import partition_of, updates_of
from fairseq_ats.checkpoints.saved_options import completed, differing_options, model_options
from fairseq_ats.options.values import CheckpointOptions, Options
from fairseq_ats.partition.partition import CORE_LEVEL, Partition, reconciled
from fairseq_ats.schemes.schedule import SchemeName

logger = logging.getLogger(__name__)

# The name of fairseq's aggregator of everything; the others are made by name when they are needed.
_EVERYTHING = "default"
_EPOCH = "train"


def partition_of_run(header: Mapping[str, Any], source: str, options: Options) -> Partition:
    """Return the partition with which a run goes on.

    Raises:
        ValueError: the options contradict the checkpoint, or ask for networks whose optimizer state it does not have.
    """
    saved = partition_of(header.get("task_state"))
    if saved is None:
        raise ValueError(
            f"{source} was not written by --task translation_with_partitioned_model; to begin a new run with the "
            f"weights of a stock model, give --init-from {source} instead, and a --save-dir of its own"
        )
    partition = reconciled(options.given_partition(trains=True), saved, source)
    scheme = options.scheme
    if scheme.lacks_networks(partition.max_level):
        raise ValueError(scheme.two_networks_needed(f"{source} holds"))
    if partition.max_level < saved.max_level and not options.checkpoints.takes_weights_only(source):
        alone = "the core alone" if partition.max_level == CORE_LEVEL else f"levels 1 to {partition.max_level} alone"
        asked = f"--scheme {scheme.name}" if scheme.name == SchemeName.CORE else f"--max-level {partition.max_level}"
        networks = "both networks" if saved.max_level == 2 else "more networks"
        raise ValueError(
            f"cannot resume {networks} as {alone} ({asked}): {source} holds the optimizer state of {networks}. Use "
            f"--finetune-from-model {source}, or add --reset-optimizer"
        )
    return partition


def check_model_options(header: Mapping[str, Any], source: str, cfg: Any, options: CheckpointOptions) -> None:
    """Compare the options that change what the model computes, but not the names and shapes of its parameters.

    fairseq would load the weights into a model that computes something else. A run that takes the weights only may do
    so on purpose: warn.

    Args:
        header: the checkpoint ``source``.
        cfg: the model's options of this run.

    Raises:
        ValueError: the run goes on with optimizer and update count, and an option differs.
    """
    differences = differing_options(model_options(header), completed(cfg))
    if not differences:
        return
    if options.takes_weights_only(source):
        logger.warning(f"{source} holds a model with other options: {'; '.join(differences)}")
        return
    raise ValueError(
        f"cannot resume {source}, a model with other options: {'; '.join(differences)}. To use its weights all the "
        f"same, give --finetune-from-model {source} and a --save-dir of its own"
    )


def why_finished(header: Mapping[str, Any], patience: Mapping[str, Any], options: CheckpointOptions) -> str | None:
    """Return why the run that wrote a checkpoint had come to its end; None if it had not.

    fairseq looks at ``--max-update`` and ``--patience`` after an update (fairseq_cli/train.py:389), so each start of a
    finished run would add one. It sees the end of ``--max-epoch`` by itself.

    Args:
        header: the checkpoint from which the run goes on, with optimizer and update count.
        patience: what ``--patience`` had counted there.
        options: have fairseq's ``max_update`` (0: no limit) and ``patience`` (0 or less: none).
    """
    updates = updates_of(header)
    if "last_optimizer_state" not in header:
        return None  # fairseq counts from 0 again
    if 0 < options.max_update <= updates:
        return f"it has {updates} updates and --max-update is {options.max_update}"
    if 0 < options.patience <= patience.get("num_runs", 0):
        return f"{patience['num_runs']} validations were no better than the best and --patience is {options.patience}"
    return None


def restore_metrics(header: Mapping[str, Any]) -> None:
    """Restore all of fairseq's metrics, after fairseq has loaded the checkpoint.

    At the beginning of an epoch fairseq loads none (fairseq/trainer.py:649), which drops a ``train_inner`` average over
    the boundary. In the middle of an epoch it loads the aggregator of everything into a copy that no update reaches
    (fairseq/logging/metrics.py:326), so that its values never change again.
    """
    # A copy: the checkpoint is read through a memory map, and the next save replaces its file.
    saved = copy.deepcopy(dict(header["extra_state"]["metrics"]))
    everything = saved.pop(_EVERYTHING, None)
    if everything is None:
        return  # a network that was taken out of a run starts without metrics
    metrics.reset()  # one aggregator of everything, the one that updates reach
    metrics.get_meters(_EVERYTHING).load_state_dict(everything)
    metrics.load_state_dict(saved)
    if header["extra_state"]["train_iterator"]["iterations_in_epoch"] == 0:
        metrics.reset_meters(_EPOCH)  # as at the end of an epoch (fairseq_cli/train.py:358)
    for meter in metrics.get_meters(_EVERYTHING).values():
        if isinstance(meter, meters.TimeMeter):
            meter.reset()  # as fairseq does: a speed is of this process
    metrics.log_start_time("wall", priority=790, round=0)  # as fairseq's trainer (fairseq/trainer.py:169)
