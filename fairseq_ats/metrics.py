"""Logging two networks through fairseq's one set of metrics.

The highest level of a run reports under fairseq's usual names (``loss``, ``ppl``, ``bleu``); a core beside a
super-network reports under the same names with ``core_`` before them. Between a step and the reduction over workers,
the core's logging outputs travel in the same dictionary under ``core:`` keys, because fairseq sums one flat
dictionary of numbers for each worker (fairseq/trainer.py:1442).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fairseq.logging import meters, metrics

LoggingOutput = dict[str, Any]

CORE = "core"
_SEPARATOR = ":"

# Logged by FairseqTask.reduce_metrics for the batch, whichever network it went through.
_THROUGHPUT = ("wps", "wpb", "bsz")


def network_key(network: str, key: str) -> str:
    """Key of a network's number on the way to the reduction over workers."""
    return f"{network}{_SEPARATOR}{key}"


class _NoCriterion:
    """Stands in for a criterion where only the task's own throughput is to be logged."""

    @staticmethod
    def reduce_metrics(logging_outputs: list[LoggingOutput]) -> None:
        pass


def as_core(logging_output: LoggingOutput) -> LoggingOutput:
    """The same numbers under the core's keys."""
    return {network_key(CORE, key): value for key, value in logging_output.items()}


def split_networks(
    logging_outputs: Iterable[LoggingOutput],
) -> tuple[list[LoggingOutput], list[LoggingOutput]]:
    """Undo :func:`as_core`: (outputs under the usual names, outputs of the core)."""
    prefix = CORE + _SEPARATOR
    usual, core = [], []
    for output in logging_outputs:
        of_core = {key.removeprefix(prefix): v for key, v in output.items() if key.startswith(prefix)}
        of_usual = {key: v for key, v in output.items() if not key.startswith(prefix)}
        if of_core:
            core.append(of_core)
        if of_usual:
            usual.append(of_usual)
    return usual, core


def core_name(name: str) -> str:
    """``loss`` → ``core_loss``; a name that fairseq hides by a leading underscore stays hidden."""
    return f"_{CORE}{name}" if name.startswith("_") else f"{CORE}_{name}"


def reduce_by_network(
    reduce: Callable[[list[LoggingOutput], Any], None],
    logging_outputs: list[LoggingOutput],
    criterion: Any,
) -> None:
    """Reduce each network's logging outputs under its own names.

    Args:
        reduce: the stock task's ``reduce_metrics``.
    """
    usual, core = split_networks(logging_outputs)
    if usual:
        with metrics.aggregate() as reduced:
            reduce(usual, criterion)
    if core:
        if not usual:
            reduce(core, _NoCriterion())
        with metrics.aggregate(new_root=True) as reduced:
            reduce(core, criterion)
        _log_as_core(reduced)
    if usual and not core:
        _hold_last({core_name(name): meter for name, meter in reduced.items()}, even_if_new=False)
    if core and not usual:
        # fairseq warns, and logs -1, when an update logs no "loss" (fairseq/trainer.py:1380).
        _hold_last(reduced, even_if_new=True)


def log_gradient_norm(network: str, other_network: str) -> None:
    """Log the update's gradient norm once more under the name of the network that it trained.

    fairseq logs ``gnorm`` just before it asks the task to reduce metrics (fairseq/trainer.py:1370); a validation has
    its own root of metrics without one.
    """
    for active in metrics.get_active_aggregators():
        if "gnorm" in active:
            value = active["gnorm"].val
            metrics.log_scalar(f"{network}_gnorm", value, priority=400, round=3)
            _hold_last({f"{other_network}_gnorm": active["gnorm"]}, even_if_new=False)
            return


def _hold_last(like: Mapping[str, meters.Meter], even_if_new: bool) -> None:
    """Log each metric's last value with weight 0: an update that trained the other network leaves averages alone.

    With ``--log-interval 1`` the log would otherwise show None, and a perplexity of 0, in every second line.

    Args:
        like: names to log, with meters that are rounded as theirs should be.
        even_if_new: make the meter, without a value, where there has been none.
    """
    for name, meter in like.items():
        if isinstance(meter, meters.AverageMeter) and name.removeprefix(core_name("")) not in _THROUGHPUT:
            last = metrics.get_meter("default", name)
            if last is not None or even_if_new:
                metrics.log_scalar(name, None if last is None else last.val, weight=0, round=meter.round)


def _log_as_core(reduced: meters.MetersDict) -> None:
    for priority, _, name in reduced.priorities:
        meter = reduced[name]
        if name in _THROUGHPUT:
            continue
        if isinstance(meter, meters.AverageMeter):
            metrics.log_scalar(core_name(name), meter.avg, meter.count, priority=priority, round=meter.round)
        elif isinstance(meter, meters.MetersDict._DerivedMeter):
            metrics.log_derived(
                core_name(name),
                lambda all_meters, fn=meter.fn: fn(_CoreMeters(all_meters)),
                priority=priority,
            )


class _CoreMeters(Mapping):
    """The core's meters under the usual names, for functions that derive one metric from others."""

    def __init__(self, all_meters: Mapping[str, meters.Meter]) -> None:
        self._all_meters = all_meters

    def __getitem__(self, name: str) -> meters.Meter:
        return self._all_meters[core_name(name)]

    def __iter__(self):
        return iter(self._all_meters)

    def __len__(self) -> int:
        return len(self._all_meters)
