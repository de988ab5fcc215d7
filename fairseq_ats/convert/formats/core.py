"""Write the core alone, as training with ``--max-level 1`` would have saved it: ``--to core``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import PARTITION_KEY, PATIENCE_KEY, RUN_KEY, TASK_CLASSES, states_of
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import check_same_network
from fairseq_ats.host import safetensors_file
from fairseq_ats.inference.loading import load_network, load_to_decode
from fairseq_ats.partition.names import split_metric
from fairseq_ats.partition.partition import CORE, CORE_LEVEL
from fairseq_ats.partition.tags import holds

# Nats. Zero: both networks run the same code on the same tensors.
TOLERANCE = 0.0

# Options that need more than one network, at their defaults.
_NO_SCHEME = {
    "scheme": None,
    "alternate_pattern": None,
    "super_only_updates": 0,
    "core_only_from": None,
    "distillation_weight": 0.0,
    "distillation_temperature": 1.0,
    "distillation_from": 0,
    "core_dropout": None,
}


@dataclass(frozen=True)
class CoreCheckpoint(OutputFormat):
    """The format of ``--to core``.

    Args:
        keep_optimizer_state: keep the optimizer's state of the core's parameters, so that training can resume with
            ``--max-level 1``.
    """

    keep_optimizer_state: bool = False

    writes_safetensors: ClassVar[bool] = True

    def check(self, source: SourceNetwork) -> None:
        if source.level != CORE_LEVEL:
            raise ValueError(f"--to core is the core alone, and --level is {source.level}; allowed: {CORE_LEVEL}")
        if self.keep_optimizer_state and "last_optimizer_state" not in source.checkpoint.state:
            raise ValueError(f"--keep-optimizer-state: {source.path} was saved with --no-save-optimizer-state")

    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        yield "optimizer state: " + ("kept for the core" if self.keep_optimizer_state else "left out")
        safetensors_file.save(core_checkpoint(source, self.keep_optimizer_state), path)

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        model, task = load_to_decode(Checkpoint.open(path), source.data)
        yield from check_same_network(source, model, task, sentences, beam, TOLERANCE)


def core_checkpoint(source: SourceNetwork, keep_optimizer_state: bool) -> dict[str, Any]:
    """Return the checkpoint with the core as its only network.

    Drop the running averages of the log: they mix all networks. Without the optimizer's state, the result equals what
    ``--no-save-optimizer-state`` saves.

    Raises:
        ValueError: ``keep_optimizer_state`` is True, and the state does not have one entry for each parameter.
    """
    core = dict(source.checkpoint.state)
    outside = core["model"].keys() - source.model.state_dict().keys()
    core["model"] = _without(outside, core["model"])
    core["cfg"] = {group: _options_of_core(options) for group, options in core["cfg"].items()}
    core["task_state"] = core["task_state"] | {
        PARTITION_KEY: core["task_state"][PARTITION_KEY] | {"max_level": CORE_LEVEL},
        RUN_KEY: None,
    }
    if source.partition.max_level > CORE_LEVEL:
        core["extra_state"] = _progress_of_core(core["extra_state"], outside)
    optimizer_state = core.pop("last_optimizer_state", None)
    if keep_optimizer_state:
        core["last_optimizer_state"] = _optimizer_state_of_core(source, optimizer_state)
    return core


def _without(outside: Collection[str], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in outside}


def _options_of_core(options: Any) -> Any:
    """Return one group of options with the values that train the core alone."""
    if isinstance(options, argparse.Namespace):
        return argparse.Namespace(**_options_of_core(vars(options)))
    if not isinstance(options, Mapping):
        return options
    changes: dict[str, Any] = {"max_level": CORE_LEVEL, "alternate": False} | _NO_SCHEME
    if options.get("best_checkpoint_metric"):
        _, changes["best_checkpoint_metric"] = split_metric(options["best_checkpoint_metric"])
    return dict(options) | {name: value for name, value in changes.items() if name in options}


def _progress_of_core(extra_state: Mapping[str, Any], outside: Collection[str]) -> dict[str, Any]:
    """Return fairseq's training progress without the other networks.

    Drop the running averages, and the EMA weights of all names in ``outside``. If the checkpoint has a best value of
    the core, that value becomes fairseq's best value, and the count of ``--patience`` is dropped.
    """
    progress = dict(extra_state) | {"metrics": {}}
    others = states_of(progress)
    for name in TASK_CLASSES:
        progress.pop(name, None)
    of_core = next((state for state in others if split_metric(str(state.get("metric")))[0] == CORE), None)
    if of_core is not None:
        progress["val_loss"] = None  # another network's value, as is the count of --patience
        progress.pop("best", None)
        progress.pop(PATIENCE_KEY, None)
        if math.isfinite(cast(float, of_core["best"])):
            progress["best"] = of_core["best"]
    for ema in ("ema", "ema_fp32_params"):
        if ema in progress:
            progress[ema] = _without(outside, progress[ema])
    return progress


def _optimizer_state_of_core(source: SourceNetwork, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return Adam's state of the core's parameters.

    The parameters' order numbers the state: fairseq/trainer.py:305 passes the model's parameters in their order, then
    the criterion's. The core's parameters have the same order in both models.

    Raises:
        ValueError: the state does not have one group with one entry for each parameter.
    """
    whole, _ = load_network(source.checkpoint, source.data, source.partition.max_level)
    in_core = [holds(p, CORE_LEVEL) for p in whole.parameters() if p.requires_grad]
    in_core += [True] * len(source.checkpoint.state["criterion"] or {})
    groups = state["param_groups"]
    if len(groups) != 1 or len(groups[0]["params"]) != len(in_core):
        raise ValueError(
            f"--keep-optimizer-state needs one entry for each of the {len(in_core)} parameters, and {source.path} has "
            f"{sum(len(group['params']) for group in groups)} in {len(groups)} group(s)"
        )
    kept = [old for old, is_kept in enumerate(in_core) if is_kept]
    return dict(state) | {
        "state": {new: state["state"][old] for new, old in enumerate(kept) if old in state["state"]},
        "param_groups": [groups[0] | {"params": list(range(len(kept)))}],
    }
