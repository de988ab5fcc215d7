"""Log several networks through fairseq's one set of metrics.

Between a step and the reduction over workers, the logging outputs of all networks travel in one dictionary, under keys
like ``core:loss``, because fairseq sums one flat dictionary of numbers for each worker (fairseq/trainer.py:1442).
:class:`~fairseq_ats.partition.names.Networks` has the keys and the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq.logging import meters, metrics

from fairseq_ats.partition.names import GRADIENT_NORM, Networks

LoggingOutput = dict[str, Any]

# FairseqTask.reduce_metrics logs these for the batch, whichever network it went through.
_THROUGHPUT = ("wps", "wpb", "bsz")


class _NoCriterion:
    """Stand in for a criterion where only the task's own throughput is to be logged."""

    @staticmethod
    def reduce_metrics(logging_outputs: list[LoggingOutput]) -> None:
        pass


def under_own_keys(networks: Networks, level: int, logging_output: LoggingOutput) -> LoggingOutput:
    """Return the same numbers under the keys of the network of ``level``."""
    return {networks.key(level, key): value for key, value in logging_output.items()}


def outputs_by_level(networks: Networks, logging_outputs: Iterable[LoggingOutput]) -> dict[int, list[LoggingOutput]]:
    """Undo :func:`under_own_keys`: return the logging outputs of each network that has some."""
    by_level: dict[int, list[LoggingOutput]] = {}
    for output in logging_outputs:
        of_output: dict[int, LoggingOutput] = {}
        for key, value in output.items():
            level, own_key = networks.split_key(key)
            of_output.setdefault(level, {})[own_key] = value
        for level, values in of_output.items():
            by_level.setdefault(level, []).append(values)
    return by_level


def reduce_by_network(
    reduce: Callable[[list[LoggingOutput], Any], None],
    logging_outputs: list[LoggingOutput],
    criterion: Any,
    networks: Networks,
) -> None:
    """Reduce each network's logging outputs under its own names.

    Args:
        reduce: the stock task's ``reduce_metrics``.
    """
    by_level = outputs_by_level(networks, logging_outputs)
    usual = by_level.pop(networks.highest, [])
    reduced: Mapping[str, meters.Meter] = {}
    if usual:
        with metrics.aggregate() as reduced:
            reduce(usual, criterion)
    elif by_level:
        reduce(next(iter(by_level.values())), _NoCriterion())
    for level, outputs in by_level.items():
        with metrics.aggregate(new_root=True) as reduced:
            reduce(outputs, criterion)
        _log_under_own_names(networks, level, reduced)
    to_hold = {name: meter for name, meter in reduced.items() if name not in _THROUGHPUT}
    for level in networks.lower_levels:
        if level not in by_level:
            own_names = {networks.metric_name(level, name): meter for name, meter in to_hold.items()}
            _hold_last(own_names, even_if_new=False)
    if by_level and not usual:
        # fairseq warns, and logs -1, when an update logs no "loss" (fairseq/trainer.py:1380).
        _hold_last(to_hold, even_if_new=True)


def log_gradient_norm(networks: Networks, logging_outputs: Iterable[LoggingOutput]) -> None:
    """Log the update's gradient norm once more, under the name of the network that the update trained.

    fairseq logs ``gnorm`` just before it asks the task to reduce metrics (fairseq/trainer.py:1370). A validation has
    its own root of metrics without one.
    """
    trained = next(iter(outputs_by_level(networks, logging_outputs)), networks.highest)
    for active in metrics.get_active_aggregators():
        if GRADIENT_NORM in active:
            norm = active[GRADIENT_NORM]
            names = {level: f"{networks.name(level)}_{GRADIENT_NORM}" for level in networks.levels}
            metrics.log_scalar(names.pop(trained), norm.val, priority=400, round=3)
            _hold_last(dict.fromkeys(names.values(), norm), even_if_new=False)
            return


def _hold_last(like: Mapping[str, meters.Meter], even_if_new: bool) -> None:
    """Log each metric's last value with weight 0, so that an update of another network leaves averages alone.

    Without this, ``--log-interval 1`` shows None, and a perplexity of 0, in every second line.

    Args:
        like: the names to log, and meters that are rounded in the same way.
        even_if_new: make a meter without a value where there is none yet.
    """
    for name, meter in like.items():
        if isinstance(meter, meters.AverageMeter):
            last = metrics.get_meter("default", name)
            if last is not None or even_if_new:
                metrics.log_scalar(name, None if last is None else last.val, weight=0, round=meter.round)


def _log_under_own_names(networks: Networks, level: int, reduced: meters.MetersDict) -> None:
    for priority, _, name in reduced.priorities:
        meter = reduced[name]
        if name in _THROUGHPUT:
            continue
        own_name = networks.metric_name(level, name)
        if isinstance(meter, meters.AverageMeter):
            metrics.log_scalar(own_name, meter.avg, meter.count, priority=priority, round=meter.round)
        elif isinstance(meter, meters.MetersDict._DerivedMeter):
            metrics.log_derived(own_name, _DerivedForNetwork(networks, level, meter.fn), priority=priority)


@dataclass(frozen=True)
class _DerivedForNetwork:
    """Derive one network's metric from its others, by a function that looks them up under the usual names."""

    networks: Networks
    level: int
    derive: Callable[[Mapping[str, meters.Meter]], Any]

    def __call__(self, all_meters: Mapping[str, meters.Meter]) -> Any:
        return self.derive(_MetersOfNetwork(all_meters, self.networks, self.level))


class _MetersOfNetwork(Mapping):
    """One network's meters under the usual names."""

    def __init__(self, all_meters: Mapping[str, meters.Meter], networks: Networks, level: int) -> None:
        self._all_meters = all_meters
        self._networks = networks
        self._level = level

    def __getitem__(self, name: str) -> meters.Meter:
        return self._all_meters[self._networks.metric_name(self._level, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all_meters)

    def __len__(self) -> int:
        return len(self._all_meters)
