"""Checkpoints of models that were built in this process, as fairseq's trainer would save them; and reading them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from tests.conftest import ROOT


def save_checkpoint(built: SimpleNamespace, path: Path, noise: float = 0.3) -> Path:
    """Save what the fixture ``build`` built, as fairseq/trainer.py:401 does.

    Args:
        noise: added to every parameter, so that no bias is zero and no core is by chance its super-network.
    """
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(noise * torch.randn_like(parameter) * parameter.std().nan_to_num(1.0).clamp_min(0.1))
    last_update = {"criterion_name": "X", "optimizer_name": "Y", "lr_scheduler_state": {"best": 1.0}, "num_updates": 5}
    state: dict[str, Any] = {
        "args": None,
        "cfg": OmegaConf.to_container(built.cfg, resolve=True, enum_to_str=True),
        "model": built.model.state_dict(),
        "criterion": None,
        "optimizer_history": [last_update],
        "task_state": built.task.state_dict(),
        "extra_state": {
            "train_iterator": {"version": 2, "epoch": 2, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": 2.0,
        },
    }
    torch.save(state, path)
    return path


def python_interface(checkpoint: Path, data: Path, level: int) -> GeneratorHubInterface:
    """fairseq's Python interface to one network of a checkpoint of this plugin."""
    return TransformerModel.from_pretrained(
        str(checkpoint.parent),
        checkpoint.name,
        str(data),
        user_dir=str(ROOT / "fairseq_ats"),
        max_level=level,
        bpe="sentencepiece",
        sentencepiece_model=str(data / "sentencepiece.model"),
    )
