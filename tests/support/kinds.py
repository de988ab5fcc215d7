"""The kinds of partition, and each of their networks as a stock model with dense weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import tasks
from fairseq.models.transformer import TransformerModel
from torch import Tensor, nn
from torch.func import functional_call

WIDTH = {"partitioned_linear_module_name": "PartitionedLinear", "small_ratio": "0.25"}
RANK = {"partitioned_linear_module_name": "PartitionedRankLinear", "small_ratio": "0.25", "init_super": "stock"}

# In a model of three encoder and three decoder layers: the options of the task.
LAYERS = 3
KINDS: dict[str, dict[str, str]] = {
    "width": WIDTH,
    "rank": RANK,
    "depth": {"core_encoder_layers": "2", "core_decoder_layers": "1", "core_layers": "first"},
    "depth, post-norm": {"core_decoder_layers": "2"},
    "depth and width": {"core_decoder_layers": "1", **WIDTH},
    "rank in qk, width in ffn and vo": {"core_ffn": "width:0.25", "core_qk": "rank:0.125", "core_vo": "width:0.5"},
    "depth, all norms private": {"core_encoder_layers": "1", "private_norms": "all", **WIDTH},
    "depth, final norms private": {"core_decoder_layers": "2", "private_norms": "final"},
    "three networks": {
        "core_decoder_layers": "1,2",
        "core_layers": "spread",
        "core_ffn": "rank:0.125,0.25",
        "core_vo": "width:0.25,0.25",
        "private_norms": "final",
    },
}
POST_NORM = {"depth, post-norm"}
# The indices of the layers that each network runs, where they are not all.
ENCODER = {"depth": [[0, 1]], "depth, all norms private": [[2]]}
DECODER = {
    "depth": [[0]],
    "depth, post-norm": [[1, 2]],
    "depth and width": [[2]],
    "depth, final norms private": [[1, 2]],
    "three networks": [[0], [0, 2]],
}


def layers_of(kind: str, level: int) -> dict[str, list[int]]:
    """The layers that a network runs: ``{"encoder": [0, 1, 2], "decoder": [0]}``."""
    chosen = {}
    for side, table in (("encoder", ENCODER), ("decoder", DECODER)):
        levels = [*table.get(kind, []), list(range(LAYERS))]
        chosen[side] = levels[min(level, len(levels)) - 1]
    return chosen


def build(parsed: Any, kind: str, **options: Any) -> SimpleNamespace:
    """Configuration, task, model and criterion of a partitioned model.

    Args:
        parsed: a configuration, which is copied: fairseq's parsing takes longer than everything else in these tests.
        options: of the task or of the model.
    """
    cfg = copy.deepcopy(parsed)
    cfg._set_flag("allow_objects", True)
    cfg.model = copy.deepcopy(parsed.model)  # a Namespace, which stays the same object in a copy of the whole
    options = KINDS[kind] | _model_options(kind, {}) | options
    for name, value in options.items():
        for group in (cfg.task, cfg.model):
            if name in group:
                setattr(group, name, value)
    cfg.model.max_target_positions = cfg.task.max_target_positions  # which is not among a model's options
    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return SimpleNamespace(cfg=cfg, task=task, model=model, criterion=task.build_criterion(cfg.criterion))


def build_stock(built: SimpleNamespace, kind: str, level: int) -> nn.Module:
    """A stock model with the layers of a network."""
    cfg = copy.deepcopy(built.cfg.model)
    for name, value in _model_options(kind, layers_of(kind, level)).items():
        setattr(cfg, name, value)
    return TransformerModel.build_model(cfg, built.task)


def _model_options(kind: str, layers: Mapping[str, list[int]]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        options[f"{side}_layers"] = len(layers.get(side, range(LAYERS)))
        options[f"{side}_normalize_before"] = kind not in POST_NORM
    return options


def block(level: int, highest: int) -> str:
    return "core" if level == 1 else "extension" if level == highest else f"extension_{level}"


def dense(
    stock: nn.Module, values: Mapping[str, Tensor], kind: str, level: int, highest: int, heads: int = 4
) -> dict[str, Tensor]:
    """The parameters of the stock model that is the network of ``level``, as functions of the blocks.

    Args:
        stock: gives names and shapes.
        values: the parameters of the partitioned model, by name.
        highest: the level of the super-network.
    """
    result = {}
    for name, parameter in stock.named_parameters():
        ours = re.sub(
            r"^(encoder|decoder)\.layers\.(\d+)",
            lambda m: f"{m[1]}.layers.{layers_of(kind, level)[m[1]][int(m[2])]}",
            name,
        )
        owner, _, what = ours.rpartition(".")
        private = f"{owner}.{block(level, highest)}.{what}"
        if ours in values or private in values:
            result[name] = values.get(ours, values.get(private))
            continue
        # A layer that not all networks run has blocks of the levels that run it only if these are two or more.
        found = {n: values[k] for n in range(1, level + 1) if (k := f"{owner}.{block(n, highest)}_{what}") in values}
        groups = heads if ".q_proj" in owner or "k_proj" in owner or "v_proj" in owner or "out_proj" in owner else 1
        if f"{owner}.core_u" in values and what == "weight":
            names = [block(n, highest) for n in range(1, min(level, highest - 1) + 1)]
            u = torch.cat([values[f"{owner}.{one}_u"] for one in names])
            v = torch.cat([values[f"{owner}.{one}_v"] for one in names], dim=1)
            result[name] = v @ u + found.get(highest, 0.0)
        elif len(found) == 1 and found[min(found)].shape == parameter.shape:
            result[name] = found[min(found)]
        else:
            dim = 1 if what == "weight" and ("fc2" in owner or "out_proj" in owner) else 0
            result[name] = filled(list(found.values()), dim, groups, parameter.shape[dim])
    return result


def filled(blocks: list[Tensor], dim: int, groups: int, size: int) -> Tensor:
    """Blocks side by side within each group, and zeros up to the full size."""
    parts = []
    for group in range(groups):
        rows = [one.tensor_split(groups, dim)[group] for one in blocks]
        missing = list(blocks[0].shape)
        missing[dim] = size // groups - sum(one.shape[dim] for one in rows)
        parts += [*rows, blocks[0].new_zeros(missing)]
    return torch.cat(parts, dim)


def plain_loss(stock: nn.Module, weights: dict[str, Tensor], batch: dict[str, Any]) -> Tensor:
    """The cross-entropy of the stock model with these weights, summed over the target's tokens."""
    output = functional_call(stock, weights, (), batch["net_input"], strict=False)[0]
    return loss_of(output, batch)


def loss_of(output: Tensor, batch: dict[str, Any]) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), batch["target"].flatten(), ignore_index=1, reduction="sum")
