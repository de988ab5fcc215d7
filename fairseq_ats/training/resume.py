"""What fairseq does not bring back when a run is resumed, and what would make it differ from one without a stop.

fairseq restores weights, optimizer, learning rate and the place in the data (which batches: ``can_reuse_epoch_itr`` of
the task). It does not restore its metrics in full, nor its patience, and it goes on with a run that is finished.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from fairseq.logging import meters, metrics

# fairseq's aggregator of everything; the others are made by name when they are needed.
_EVERYTHING = "default"
_EPOCH = "train"

# Under which :func:`patience_state` is in a checkpoint's extra state.
PATIENCE_KEY = "patience"


def why_finished(header: Mapping[str, Any], patience: Mapping[str, Any], options: Any) -> str | None:
    """Why the run that wrote a checkpoint had come to its end; None if it had not.

    fairseq looks at ``--max-update`` and ``--patience`` after an update (fairseq_cli/train.py:389), so that each start
    of a finished run would add one. The end of ``--max-epoch`` it sees by itself.

    Args:
        header: a checkpoint from which the run is to go on, with optimizer and update count.
        patience: :func:`patience_state` in that checkpoint.
        options: fairseq's ``max_update`` (0: no limit) and ``patience`` (0 or less: none).
    """
    updates = header["optimizer_history"][-1]["num_updates"]
    if "last_optimizer_state" not in header:
        return None  # fairseq counts from 0 again
    if 0 < options.max_update <= updates:
        return f"it has {updates} updates and --max-update is {options.max_update}"
    if 0 < options.patience <= patience.get("num_runs", 0):
        return f"{patience['num_runs']} validations were no better than the best and --patience is {options.patience}"
    return None


def restore_metrics(header: Mapping[str, Any]) -> None:
    """Bring back all of fairseq's metrics; to be called when fairseq has loaded the checkpoint.

    fairseq loads none at the beginning of an epoch (fairseq/trainer.py:649), which drops a ``train_inner`` average over
    the boundary; in the middle of one it loads the aggregator of everything into a copy that no update reaches
    (fairseq/logging/metrics.py:326), so that its values stay those of the checkpoint for good.
    """
    # Read through a memory map, of a file that the next save replaces.
    saved = copy.deepcopy(dict(header["extra_state"]["metrics"]))
    everything = saved.pop(_EVERYTHING, None)
    if everything is None:
        return  # a network that was taken out of a run begins with none
    metrics.reset()  # one aggregator of everything, the one that updates reach
    metrics.get_meters(_EVERYTHING).load_state_dict(everything)
    metrics.load_state_dict(saved)
    if header["extra_state"]["train_iterator"]["iterations_in_epoch"] == 0:
        metrics.reset_meters(_EPOCH)  # as at the end of an epoch (fairseq_cli/train.py:358)
    for meter in metrics.get_meters(_EVERYTHING).values():
        if isinstance(meter, meters.TimeMeter):
            meter.reset()  # as fairseq: a speed begins anew
    metrics.log_start_time("wall", priority=790, round=0)  # as fairseq's trainer (fairseq/trainer.py:169)


def patience_state() -> dict[str, Any]:
    """What ``--patience`` has counted so far; fairseq keeps it in a function and saves it nowhere."""
    return dict(vars(_should_stop_early()))


def restore_patience(state: Mapping[str, Any]) -> None:
    """Undo :func:`patience_state`."""
    vars(_should_stop_early()).update(state)


def _should_stop_early() -> Any:
    # Imported late: importing fairseq's training command sets up logging to standard output.
    from fairseq_cli.train import should_stop_early

    return should_stop_early
