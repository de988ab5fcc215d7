"""Write a checkpoint that stock fairseq reads without this plugin: ``--to fairseq``."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fairseq.models.bart import BARTModel
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.tasks.translation import TranslationConfig
from torch import Tensor

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import STOCK_TASK_NAME
from fairseq_ats.checkpoints.saved_options import forget_start_files_
from fairseq_ats.convert.folding import check_dense, dense_cost, side_sizes, stock_parameters
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import check_same_network
from fairseq_ats.host import safetensors_file
from fairseq_ats.inference.loading import load_to_decode
from fairseq_ats.optim import OPTIMIZER_NAME
from fairseq_ats.optim.adam_for_partitioned_model import AdamForPartitionedModelConfig
from fairseq_ats.partition.names import split_metric
from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig

STOCK_OPTIMIZER = "adam"

# Nats. Folding rounds W + VU once, in float32; the unfolded network rounds in every product. The largest difference
# that was measured is 1e-5 (3+3 layers of width 128).
TOLERANCE = 1e-4


@dataclass(frozen=True)
class StockCheckpoint(OutputFormat):
    """The format of ``--to fairseq``.

    Args:
        dense: allow a low-rank network below the super-network. Its thin layers become dense.
    """

    dense: bool = False

    def check(self, source: SourceNetwork) -> None:
        check_dense(source, self.dense, "fairseq")
        if isinstance(source.model, BARTModel):
            # BART looks for its task among its options (fairseq/models/bart/model.py:234). A Namespace has the task.
            raise ValueError("--to fairseq is not for BART, whose options stock fairseq cannot read from plain values")

    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        yield from dense_cost(source)
        safetensors_file.save(stock_checkpoint(source), path)

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        model, task = load_to_decode(Checkpoint.open(path), source.data)
        yield from check_same_network(source, model, task, sentences, beam, TOLERANCE)


def stock_checkpoint(source: SourceNetwork) -> dict[str, Any]:
    """Return the network as a dictionary for ``torch.save``, with plain values and tensors only.

    ``torch.load`` of torch >= 2.6 reads other types only with an allow-list, and stock fairseq has no allow-list.
    ``fairseq-train`` saves the model's options as an ``argparse.Namespace``; here they become a dictionary. fairseq
    accepts a dictionary, because ``fairseq-hydra-train`` writes one. Drop the options of this plugin. Drop the
    optimizer's state and the running averages of the log, because they belong to all networks.
    """
    parameters = stock_parameters(source.model)
    history = source.checkpoint.state["optimizer_history"][-1] | {"optimizer_name": "FairseqAdam"}
    return as_plain(
        {
            "args": None,
            "cfg": _stock_options(source.checkpoint.state["cfg"], side_sizes(parameters)),
            "model": parameters,
            "criterion": None,
            "optimizer_history": [history],
            "task_state": {},
            "extra_state": {"train_iterator": source.checkpoint.state["extra_state"]["train_iterator"]},
        }
    )


def _stock_options(cfg: Mapping[str, Any], sizes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return fairseq's configuration, group by group, as stock training of the folded network would have saved it."""
    stock = {group: _values(options) for group, options in cfg.items()}
    own = _own_options(stock)
    stock["task"] = {name: value for name, value in stock["task"].items() if name in _names(TranslationConfig)}
    stock["task"]["_name"] = STOCK_TASK_NAME
    if stock["optimizer"]["_name"] == OPTIMIZER_NAME:
        stock["optimizer"] = {name: value for name, value in stock["optimizer"].items() if name not in own}
        stock["optimizer"]["_name"] = STOCK_OPTIMIZER

    options = argparse.Namespace(
        **{name: copy.deepcopy(value) for name, value in stock["model"].items() if name not in own}
    )
    forget_start_files_(options)
    model = vars(options)
    for side, of_side in sizes.items():
        # fairseq prefers the nested form if there is one (fairseq/models/transformer/transformer_config.py:305).
        if side in model:
            model[side] = _values(model[side]) | of_side
        model |= {f"{side}_{name}": size for name, size in of_side.items()}
    stock["model"] = model

    # fairseq-train saves the options of all groups in the model's group, as well.
    for group in (stock["common"], stock["checkpoint"], model):
        if "user_dir" in group:
            group["user_dir"] = None
        if group.get("best_checkpoint_metric"):
            _, group["best_checkpoint_metric"] = split_metric(group["best_checkpoint_metric"])
    for option, value in (("task", STOCK_TASK_NAME), ("optimizer", stock["optimizer"]["_name"])):
        if option in model:
            model[option] = value
    return stock


def _own_options(cfg: Mapping[str, Any]) -> set[str]:
    """Return the names of the options that this plugin adds to fairseq's, without views of fairseq's own options."""
    of_fairseq = {
        name
        for group, options in cfg.items()
        if group not in ("task", "model", "optimizer") and isinstance(options, dict)
        for name in options
    }
    of_task = set(_names(PartitionedTranslationConfig)) - set(_names(TranslationConfig))
    of_optimizer = set(_names(AdamForPartitionedModelConfig)) - set(_names(FairseqAdamConfig))
    return (of_task | of_optimizer) - of_fairseq


def _names(config: type) -> list[str]:
    return [field.name for field in fields(config) if field.name != "_name"]


def _values(options: Any) -> Any:
    if isinstance(options, argparse.Namespace):
        return dict(vars(options))
    return dict(options) if isinstance(options, Mapping) else options


def as_plain(value: Any) -> Any:
    """Return the value as None, dictionaries, lists, numbers, strings and tensors only.

    Raises:
        ValueError: the value holds an object of another type.
    """
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {as_plain(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(entry) for entry in value]
    if value is None or type(value) in (bool, int, float, str, Tensor):
        return value
    raise ValueError(f"{value!r} of type {type(value).__name__} does not belong in a checkpoint of stock fairseq")
