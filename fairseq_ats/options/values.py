"""Turn the options into typed values, each of them once.

fairseq keeps options as strings, numbers and enumerations of its own. From here on the plugin passes values of its own
types around. A view of another group of fairseq's options has no value in a task that only decodes; it is not read
there, because a value is made when it is first asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar, cast

from fairseq_ats.checkpoints.names import last_checkpoint, with_suffix
from fairseq_ats.options.config import InitOrder, PartitionedConfig, SuperStart
from fairseq_ats.partition.fields import typed
from fairseq_ats.partition.partition import CORE_LEVEL, Partition
from fairseq_ats.schemes.options import SCHEMES_OF_PARTS, SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName
from fairseq_ats.theory.monitor import CriteriaOptions

# Beyond these z / T is a one-hot or a uniform distribution in float32, and T² leaves its range.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class DistillationOptions:
    """``--distillation-weight``, ``--distillation-temperature`` and ``--distillation-from``."""

    weight: float
    temperature: float
    start: int = 0

    def problems(self, scheme: SchemeOptions, rdrop_alpha: float | None) -> list[str]:
        """Return one message for each of the options that is outside its range, or does not go with the others.

        Args:
            rdrop_alpha: ``--rdrop-alpha`` of fairseq's criterion, if it has the option.
        """
        found = []
        if not 0.0 <= self.weight <= 1.0:
            found.append(f"--distillation-weight is {self.weight}; allowed: 0 to 1")
        if self.weight != 0.0:
            found += scheme.needed_by(f"--distillation-weight is {self.weight}")
            if rdrop_alpha:
                found.append(
                    f"--distillation-weight is {self.weight} and --rdrop-alpha is {rdrop_alpha}, which has every "
                    "sentence twice in a pass; leave one of them out"
                )
        else:
            given = {"temperature": (self.temperature, 1.0), "from": (self.start, 0)}
            found += [
                f"--distillation-{option} is {value}, which needs --distillation-weight above 0"
                for option, (value, default) in given.items()
                if value != default
            ]
        if self.start < 0:
            found.append(f"--distillation-from is {self.start}; allowed: 0 or more")
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            found.append(
                f"--distillation-temperature is {self.temperature}; allowed: {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}"
            )
        return found


@dataclass(frozen=True)
class StartOptions:
    """How a new run starts.

    Args:
        init_super: None: not given.
    """

    init_from: str | None
    init_order: InitOrder
    init_super: SuperStart | None


@dataclass(frozen=True)
class CheckpointOptions:
    """fairseq's options for loading and saving, under fairseq's names."""

    save_dir: str
    restore_file: str
    checkpoint_suffix: str
    continue_once: str | None
    finetune_from_model: str | None
    reset_optimizer: bool
    reset_meters: bool
    max_update: int
    patience: int
    best_checkpoint_metric: str
    maximize_best_checkpoint_metric: bool
    no_last_checkpoints: bool
    no_save: bool
    disable_validation: bool

    @property
    def last(self) -> str:
        """The file that each save overwrites."""
        return os.path.join(self.save_dir, last_checkpoint(self.checkpoint_suffix))

    @property
    def restores_another(self) -> bool:
        """Whether ``--restore-file`` names another file than the last one."""
        return self.restore_file != last_checkpoint()

    def to_load(self) -> str | None:
        """Return the file from which fairseq will train on (fairseq/checkpoint_utils.py:207), if there is one."""
        candidates: list[str | None]
        if self.restores_another:
            candidates = [with_suffix(self.restore_file, self.checkpoint_suffix)]
        else:
            candidates = [self.last, self.continue_once or self.finetune_from_model]
        return next((path for path in candidates if path and os.path.isfile(path)), None)

    def takes_weights_only(self, source: str) -> bool:
        """Return whether updates are counted from 0 with the weights of ``source``, as with --finetune-from-model."""
        return self.reset_optimizer or source == self.finetune_from_model

    @property
    def saves_after_each_validation(self) -> bool:
        """Whether fairseq writes a file after every validation that could find a best checkpoint."""
        return not self.no_last_checkpoints or self.no_save or self.disable_validation


@dataclass(frozen=True)
class HostOptions:
    """fairseq's options for where and in which precision it computes, under fairseq's names.

    Args:
        optimizer_name: None while decoding, where fairseq has no optimizer.
    """

    optimizer_name: str | None
    distributed_world_size: int
    ddp_backend: str
    find_unused_parameters: bool
    zero_sharding: str
    use_bmuf: bool
    cpu: bool
    tpu: bool
    fp16: bool
    memory_efficient_fp16: bool
    fp16_no_flatten_grads: bool
    bf16: bool
    memory_efficient_bf16: bool
    amp: bool
    write_checkpoints_asynchronously: bool
    seed: int
    clip_norm: float

    @property
    def has_workers(self) -> bool:
        """Whether a data-parallel backend is at work; fully_sharded shards parameters even in one worker."""
        return self.distributed_world_size > 1 or self.ddp_backend == "fully_sharded"


# A class that has fields with the names of options.
Section = TypeVar("Section", CheckpointOptions, HostOptions)


class Options:
    """The options of a task.

    Args:
        cfg: fairseq's; it must not change any more.
    """

    def __init__(self, cfg: PartitionedConfig) -> None:
        self._cfg = cfg

    @cached_property
    def scheme(self) -> SchemeOptions:
        given = self._cfg
        own = {
            "--parts": given.parts,
            "--local-updates": given.local_updates,
            "--shared-parameters": plain(given.shared_parameters),
        }
        return SchemeOptions(
            scheme=None if given.scheme is None else SchemeName(str(given.scheme)),
            alternate=given.alternate,
            pattern=given.alternate_pattern,
            super_only_updates=given.super_only_updates or 0,
            core_only_from=given.core_only_from,
            arguments=given.scheme_args,
            own_options={option: value for option, value in own.items() if value is not None},
            step_scale=given.step_scale,
            freeze=given.freeze,
        )

    @cached_property
    def distillation(self) -> DistillationOptions:
        given = self._cfg  # settled: no longer None
        return DistillationOptions(
            cast(float, given.distillation_weight),
            cast(float, given.distillation_temperature),
            cast(int, given.distillation_from),
        )

    @cached_property
    def criteria(self) -> CriteriaOptions:
        given = self._cfg
        compares_networks = given.criteria_of == "core" or (
            given.criteria_of in (None, "scheme") and self.scheme.name not in SCHEMES_OF_PARTS
        )
        dropout = str(given.criteria_dropout)
        return CriteriaOptions(
            given.criteria_interval, dropout, given.criteria_by_layer_type, given.criteria_of, compares_networks
        )

    @cached_property
    def start(self) -> StartOptions:
        given = self._cfg
        init_super = None if given.init_super is None else SuperStart(str(given.init_super))
        return StartOptions(given.init_from, InitOrder(str(given.init_order)), init_super)

    @cached_property
    def checkpoints(self) -> CheckpointOptions:
        return self._section(CheckpointOptions)

    @cached_property
    def host(self) -> HostOptions:
        return self._section(HostOptions)

    @property
    def perturbed_validation(self) -> int:
        """The number of points at which the perturbed network is validated."""
        kind, given = SCHEMES_OF_PARTS.get(self.scheme.name), self._cfg.perturbed_validation
        return given if given is not None else 0 if kind is None else kind.validated_points

    @property
    def autocast(self) -> str | None:
        """A dtype of PyTorch by name; None: the weights' precision."""
        return plain(self._cfg.autocast)

    @property
    def module_name(self) -> str | None:
        return plain(self._cfg.partitioned_linear_module_name)

    @property
    def core_dropout(self) -> float | None:
        return self._cfg.core_dropout

    @property
    def max_level(self) -> int | None:
        return self._cfg.max_level

    @property
    def super_start(self) -> SuperStart:
        """What the options ask for, or what was measured to be best: the core where several networks are trained."""
        if self.start.init_super is not None:
            return self.start.init_super
        several = self.scheme.name.trains_several and self.start.init_from is None
        return SuperStart.CORE if several else SuperStart.STOCK

    def given_partition(self, trains: bool) -> dict[str, Any]:
        """Return the fields of the partition that were given, by name.

        Args:
            trains: whether the scheme counts. A network that is only decoded has none.

        Raises:
            ValueError: as :func:`typed`.
        """
        core_alone = trains and self.scheme.name == SchemeName.CORE
        names = [field.name for field in fields(Partition) if field.name != "module_name"]
        given = {"module_name": self.module_name} | {name: plain(getattr(self._cfg, name)) for name in names}
        return typed(given | ({"max_level": CORE_LEVEL} if core_alone else {}))

    @property
    def valid_partition(self) -> Partition | None:
        """The partition of a new run; None if the options do not make one."""
        try:
            return Partition(**self.given_partition(trains=True))
        except ValueError:
            return None

    def _section(self, kind: type[Section]) -> Section:
        """Return the options that have the names of the fields of ``kind``."""
        return kind(**{field.name: plain(getattr(self._cfg, field.name)) for field in fields(kind)})


def plain(value: Any) -> Any:
    """Return the string that one of fairseq's enumerations stands for, and other values as they are."""
    return str(value) if isinstance(value, Enum) else value
