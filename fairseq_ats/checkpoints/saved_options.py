"""The options that a checkpoint was trained with, read as plain values: nothing is built from them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from typing import Any

from fairseq.models import ARCH_CONFIG_REGISTRY

# They change what a Transformer computes, and leave no trace in the names and shapes of its parameters.
UNSEEN_IN_WEIGHTS = (
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_normalize_before",
    "decoder_normalize_before",
    "activation_fn",
    "no_scale_embedding",
    "no_token_positional_embeddings",
    "cross_self_attention",
)


def saved_options(checkpoint: Mapping[str, Any], group: str) -> dict[str, Any]:
    """One group ("model", "task", "checkpoint", ...) of a checkpoint's options.

    ``fairseq-train`` saves ``cfg`` with a Namespace as its model, ``fairseq-hydra-train`` plain dictionaries, and
    fairseq before 0.10.1 one flat Namespace ``args`` for all groups.
    """
    cfg = checkpoint.get("cfg")
    options = checkpoint.get("args") if cfg is None else cfg.get(group)
    if isinstance(options, Namespace):
        return dict(vars(options))
    return dict(options or {})


def model_options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the model, under the names that the command line has for them.

    ``fairseq-hydra-train`` saves those that were given, perhaps with one group for each side; the others are what
    ``--arch`` makes them.
    """
    options = saved_options(checkpoint, "model")
    for side in ("encoder", "decoder"):
        if isinstance(options.get(side), Mapping):
            options |= {f"{side}_{name}": value for name, value in options[side].items()}
    complete = Namespace(**options)
    arch = options.get("arch") or options.get("_name")
    if arch in ARCH_CONFIG_REGISTRY:
        ARCH_CONFIG_REGISTRY[arch](complete)
    return vars(complete)


def forget_start_files_(model_options: Any) -> None:
    """Take out, in place, the files that a new training begins from: the weights are in a checkpoint.

    fairseq reads files of embeddings whenever it builds the model (fairseq/models/transformer/transformer_base.py:137).

    Args:
        model_options: as ``task.build_model`` gets them; from hydra, those of a side are nested.
    """
    for side in ("encoder", "decoder"):
        nested = getattr(model_options, side, None)
        if isinstance(nested, MutableMapping) and "embed_path" in nested:
            nested["embed_path"] = None
        if hasattr(model_options, f"{side}_embed_path"):
            setattr(model_options, f"{side}_embed_path", None)


def differing_options(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """One sentence for each option of ``UNSEEN_IN_WEIGHTS`` that has two values.

    An option that either does not name is not compared: fairseq of another time may not know it.
    """
    return [
        f"--{name.replace('_', '-')} is {theirs[name]} there and {ours[name]} here"
        for name in UNSEEN_IN_WEIGHTS
        if name in theirs and name in ours and theirs[name] != ours[name]
    ]
