"""For tests of fairseq-ats-convert: checkpoints to convert, and what fairseq itself makes of checkpoints."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from fairseq_ats.cli.convert import main
from tests.fixtures import ROOT

CORE, SUPER = 1, 2

# Each changes what a stock file must say of the model: sizes, depths, norms, positions, activation, sharing.
VARIANTS = {
    "post-norm": [],
    "pre-norm": ["--encoder-normalize-before", "--decoder-normalize-before", "--activation-fn", "gelu"],
    "unequal": ["--encoder-layers", "1", "--decoder-attention-heads", "2", "--decoder-normalize-before"],
    "no encoder layers": ["--encoder-layers", "0"],
    "embeddings": ["--decoder-learned-pos", "--layernorm-embedding", "--no-scale-embedding"],
}


def load(path: Path, data: Path, **overrides: Any) -> torch.nn.Module:
    """The model of a checkpoint through fairseq's own function."""
    overrides |= {"data": str(data)}
    return checkpoint_utils.load_model_ensemble([str(path)], arg_overrides=overrides)[0][0].eval()


@torch.no_grad()
def logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    return model(**batch["net_input"])[0]


def convert(checkpoint: Path, level: int | str, output: Path, *options: str, to: str = "fairseq") -> Path:
    """``fairseq-ats-convert``; a refusal is raised with what it says."""
    with redirect_stderr(io.StringIO()) as said:
        try:
            main([str(checkpoint), "--level", str(level), "--to", to, "--output", str(output), *options])
        except SystemExit as stopped:
            raise SystemExit(f"{said.getvalue()} (exit status {stopped.code})") from stopped
    return output


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
