"""Read the options that a checkpoint was trained with as plain values, and build nothing from them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, MutableMapping
from typing import Any

from fairseq.models import ARCH_CONFIG_REGISTRY

# Options that change what a Transformer computes, but not the names and shapes of its parameters.
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
    """Return one group ("model", "task", "checkpoint", ...) of a checkpoint's options, by name.

    Read all three formats. ``fairseq-train`` saves ``cfg``, with a Namespace for the model. ``fairseq-hydra-train``
    saves ``cfg`` with plain dictionaries only. fairseq before 0.10.1 saves one flat Namespace ``args`` for all groups.
    """
    cfg = checkpoint.get("cfg")
    return _as_dictionary(checkpoint.get("args") if cfg is None else cfg.get(group))


def _as_dictionary(options: Any) -> dict[str, Any]:
    return dict(vars(options)) if isinstance(options, Namespace) else dict(options or {})


def model_options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a checkpoint's model, under their names on the command line."""
    return completed(saved_options(checkpoint, "model"))


def completed(model_options: Any) -> dict[str, Any]:
    """Return all options of a model, under their names on the command line.

    ``fairseq-hydra-train`` has only the options that were given, and may nest the options of the encoder and of the
    decoder. Flatten the nested options, and fill in the other options from ``--arch``.

    Args:
        model_options: what ``task.build_model`` gets, or what a checkpoint has of it.
    """
    options = _as_dictionary(model_options)
    for side in ("encoder", "decoder"):
        if isinstance(options.get(side), Mapping):
            options |= {f"{side}_{name}": value for name, value in options[side].items()}
    complete = Namespace(**options)
    arch = options.get("arch") or options.get("_name")
    if arch in ARCH_CONFIG_REGISTRY:
        ARCH_CONFIG_REGISTRY[arch](complete)
    return vars(complete)


def forget_start_files_(model_options: Any) -> None:
    """Remove, in place, the embedding files that a new training starts from: a checkpoint has the weights already.

    fairseq reads these files whenever it builds the model (fairseq/models/transformer/transformer_base.py:137).

    Args:
        model_options: the options that ``task.build_model`` gets; hydra nests the options of encoder and decoder.
    """
    for side in ("encoder", "decoder"):
        nested = getattr(model_options, side, None)
        if isinstance(nested, MutableMapping) and "embed_path" in nested:
            nested["embed_path"] = None
        if hasattr(model_options, f"{side}_embed_path"):
            setattr(model_options, f"{side}_embed_path", None)


def differing_options(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return one message for each option in ``UNSEEN_IN_WEIGHTS`` whose two values differ.

    Skip an option that is missing on either side: another version of fairseq may not have it.
    """
    return [
        f"--{name.replace('_', '-')} is {theirs[name]} there and {ours[name]} here"
        for name in UNSEEN_IN_WEIGHTS
        if name in theirs and name in ours and theirs[name] != ours[name]
    ]
