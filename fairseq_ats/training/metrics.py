"""Logging several networks through fairseq's one set of metrics.

The highest level of a run reports under fairseq's usual names (``loss``, ``ppl``, ``bleu``); every network below it
reports under the same names with its own before them (``core_loss``, ``level2_loss``). Between a step and the reduction
over workers, its logging outputs travel in the same dictionary under keys like ``core:loss``, because fairseq sums one
flat dictionary of numbers for each worker (fairseq/trainer.py:1442).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fairseq.logging import meters, metrics

from fairseq_ats.partition.partition import CORE

LoggingOutput = dict[str, Any]

# In place of a network's name: what reports under the usual names.
HIGHEST = ""

_SEPARATOR = ":"

# "super" is not among them: it is the highest level of every run that has it.
_LOWER = rf"{CORE}|level\d+"
_METRIC = re.compile(rf"({_LOWER})_(.+)")
_KEY = re.compile(rf"({_LOWER}){_SEPARATOR}(.+)")

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


def metric_name(network: str, metric: str) -> str:
    """``loss`` of ``core`` → ``core_loss``; a name that fairseq hides by a leading underscore stays hidden."""
    if network == HIGHEST:
        return metric
    return f"_{network}{metric}" if metric.startswith("_") else f"{network}_{metric}"


def split_metric(name: str) -> tuple[str, str]:
    """The inverse of :func:`metric_name`: (network, name under which the highest network reports)."""
    return _split(name, _METRIC)


def _split(name: str, pattern: re.Pattern[str]) -> tuple[str, str]:
    match = pattern.fullmatch(name)
    return (match.group(1), match.group(2)) if match else (HIGHEST, name)


def under_name(network: str, logging_output: LoggingOutput) -> LoggingOutput:
    """The same numbers under the network's keys."""
    if network == HIGHEST:
        return logging_output
    return {network_key(network, key): value for key, value in logging_output.items()}


def split_networks(logging_outputs: Iterable[LoggingOutput]) -> dict[str, list[LoggingOutput]]:
    """Undo :func:`under_name`: the logging outputs of each network that has some."""
    by_network: dict[str, list[LoggingOutput]] = {}
    for output in logging_outputs:
        of_output: dict[str, LoggingOutput] = {}
        for key, value in output.items():
            network, own_key = _split(key, _KEY)
            of_output.setdefault(network, {})[own_key] = value
        for network, values in of_output.items():
            by_network.setdefault(network, []).append(values)
    return by_network


def reduce_by_network(
    reduce: Callable[[list[LoggingOutput], Any], None],
    logging_outputs: list[LoggingOutput],
    criterion: Any,
    lower_networks: Sequence[str],
) -> None:
    """Reduce each network's logging outputs under its own names.

    Args:
        reduce: the stock task's ``reduce_metrics``.
        lower_networks: names of all networks of the run below the highest.
    """
    by_network = split_networks(logging_outputs)
    usual = by_network.pop(HIGHEST, [])
    reduced: Mapping[str, meters.Meter] = {}
    if usual:
        with metrics.aggregate() as reduced:
            reduce(usual, criterion)
    elif by_network:
        reduce(next(iter(by_network.values())), _NoCriterion())
    for network, outputs in by_network.items():
        with metrics.aggregate(new_root=True) as reduced:
            reduce(outputs, criterion)
        _log_under_name(network, reduced)
    to_hold = {name: meter for name, meter in reduced.items() if name not in _THROUGHPUT}
    for network in lower_networks:
        if network not in by_network:
            _hold_last({metric_name(network, name): meter for name, meter in to_hold.items()}, even_if_new=False)
    if by_network and not usual:
        # fairseq warns, and logs -1, when an update logs no "loss" (fairseq/trainer.py:1380).
        _hold_last(to_hold, even_if_new=True)


def log_gradient_norm(network: str, other_networks: Iterable[str]) -> None:
    """Log the update's gradient norm once more under the name of the network that it trained.

    fairseq logs ``gnorm`` just before it asks the task to reduce metrics (fairseq/trainer.py:1370); a validation has
    its own root of metrics without one.
    """
    for active in metrics.get_active_aggregators():
        if "gnorm" in active:
            value = active["gnorm"].val
            metrics.log_scalar(f"{network}_gnorm", value, priority=400, round=3)
            _hold_last({f"{other}_gnorm": active["gnorm"] for other in other_networks}, even_if_new=False)
            return


def _hold_last(like: Mapping[str, meters.Meter], even_if_new: bool) -> None:
    """Log each metric's last value with weight 0: an update that trained another network leaves averages alone.

    With ``--log-interval 1`` the log would otherwise show None, and a perplexity of 0, in every second line.

    Args:
        like: names to log, with meters that are rounded as theirs should be.
        even_if_new: make the meter, without a value, where there has been none.
    """
    for name, meter in like.items():
        if isinstance(meter, meters.AverageMeter):
            last = metrics.get_meter("default", name)
            if last is not None or even_if_new:
                metrics.log_scalar(name, None if last is None else last.val, weight=0, round=meter.round)


def _log_under_name(network: str, reduced: meters.MetersDict) -> None:
    for priority, _, name in reduced.priorities:
        meter = reduced[name]
        if name in _THROUGHPUT:
            continue
        if isinstance(meter, meters.AverageMeter):
            metrics.log_scalar(metric_name(network, name), meter.avg, meter.count, priority=priority, round=meter.round)
        elif isinstance(meter, meters.MetersDict._DerivedMeter):
            metrics.log_derived(
                metric_name(network, name),
                lambda all_meters, fn=meter.fn: fn(_MetersOfNetwork(all_meters, network)),
                priority=priority,
            )


class _MetersOfNetwork(Mapping):
    """One network's meters under the usual names, for functions that derive one metric from others."""

    def __init__(self, all_meters: Mapping[str, meters.Meter], network: str) -> None:
        self._all_meters = all_meters
        self._network = network

    def __getitem__(self, name: str) -> meters.Meter:
        return self._all_meters[metric_name(self._network, name)]

    def __iter__(self):
        return iter(self._all_meters)

    def __len__(self) -> int:
        return len(self._all_meters)
