"""Turn a built stock Transformer into a partitioned one, in place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerModelBase
from fairseq.modules import FairseqDropout, MultiheadAttention
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from torch import nn

from fairseq_ats.architectures.depth import make_norms_private_, partition_depth_, stacks
from fairseq_ats.architectures.pair import put_extension_beside_
from fairseq_ats.modules import (
    FastDropout,
    PartitionedLinear,
    PartitionedMultiheadAttention,
    PartitionedRankLinear,
)
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.levels import partitioned_modules, refuse_equal_levels
from fairseq_ats.modules.linear import INPUT_DIM, OUTPUT_DIM
from fairseq_ats.modules.norm import PrivateNorm
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import RANK

ALLOWED_ARCHS = (
    "a partitioned model needs an encoder-decoder Transformer (--arch transformer, transformer_iwslt_de_en, "
    "transformer_wmt_en_de, ...)"
)


def partition_model_(model: nn.Module, partition: Partition, initialise: bool = True) -> int:
    """Partition a stock encoder–decoder Transformer in place.

    The paper's partitions replace both feed-forward layers of every encoder and decoder layer, and the key and query
    projections of every attention (section 4.1 and appendix C): 60 layers in a 6+6-layer model. Value and output
    projections, embeddings and the softmax stay whole. Other partitions (not in the paper) split other linear layers,
    the depth, or norms.

    The model changes in place because fairseq's BLEU generator already holds it. Each new layer starts from the
    initialised stock layer, so that the initial statistics are fairseq's.

    Args:
        initialise: False skips the factorisation of the weights, for a model whose parameters a checkpoint will fill.

    A pair of networks keeps the stock attention, since each of the two always runs as a whole.

    Returns:
        The number of replaced linear layers.

    Raises:
        ValueError: the model is not an encoder–decoder Transformer, its layers cannot be replaced or skipped, or two
            levels are the same network.
    """
    refuse_unsupported(model)
    if partition.extension_arch is not None:
        put_extension_beside_(model, partition)
        replace_dropout_(model)
        return 0
    partition_depth_(model, partition)
    swaps = partition_linears_(model, partition, initialise)
    make_norms_private_(model, partition)
    for stack in stacks(model):
        stack.tag()
    if partition.super_level > 2 or stacks(model):  # a core that rounds to the full size has always been allowed
        refuse_equal_levels([m for m in partitioned_modules(model) if not isinstance(m, PrivateNorm)], partition)
    replace_attention_and_dropout_(model)
    return swaps


def check_model_options(cfg: Any) -> None:
    """Check the model's options before it is built.

    The check comes first because building is not harmless. A checkpoint brings its own options, and fairseq passes
    some of them to ``eval``: options of some models (fconv), and two options of a Transformer: the cut-offs of an
    adaptive softmax and the settings of xFormers attention (fairseq/utils.py, ``eval_str_list`` and ``eval_str_dict``).

    Args:
        cfg: fairseq's model options, as ``task.build_model`` gets them.

    Raises:
        ValueError: ``--arch`` does not name an encoder-decoder Transformer, or an option is not allowed.
    """
    name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
    model_class = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
    if model_class is None or not _translates(model_class):
        raise ValueError(f"--arch is {name}; {ALLOWED_ARCHS}")
    cutoff = getattr(cfg, "adaptive_softmax_cutoff", None)
    if isinstance(cutoff, str) and not re.fullmatch(r"[\d\s,]*", cutoff):
        raise ValueError(f"--adaptive-softmax-cutoff is {cutoff!r}; allowed: numbers with commas between them")
    if cutoff is not None:
        # With either of the first two options, fairseq cannot read its own checkpoints: it adds weights for an output
        # layer that the model does not have (fairseq/models/transformer/transformer_decoder.py:402). The third option
        # needs adaptive input embeddings.
        for name in ("share_all_embeddings", "share_decoder_input_output_embed", "tie_adaptive_weights"):
            if getattr(cfg, name, False):
                raise ValueError(
                    f"--adaptive-softmax-cutoff is {cutoff} and --{name.replace('_', '-')} is given, which fairseq "
                    "cannot have together; leave one of them out"
                )
    for side in ("encoder", "decoder"):
        flat = getattr(cfg, f"{side}_xformers_att_config", None)
        # fairseq also accepts a dictionary (fairseq/models/transformer/transformer_config.py:305).
        nested = getattr(cfg, side, None)
        read = nested.get if isinstance(nested, Mapping) else partial(getattr, nested)
        if flat is not None or read("xformers_att_config", None) is not None:
            raise ValueError(f"--{side}-xformers-att-config is not supported in a partitioned model; leave it out")
        kept = getattr(cfg, f"{side}_layers_to_keep", None) or read("layers_to_keep", None)
        # fairseq parses the option as a list and splits it as text (fairseq/models/transformer/transformer_legacy.py:99
        # and transformer_base.py:69); --model-overrides brings text.
        if kept and not isinstance(kept, str):
            raise ValueError(
                f"--{side}-layers-to-keep is {','.join(map(str, kept))}, which fairseq takes in --model-overrides "
                f"only; leave it out, or give --{side}-layers"
            )


def _translates(model_class: type[nn.Module]) -> bool:
    """Return whether a class is a Transformer with the call signature that fairseq's translation criteria use.

    fairseq's non-autoregressive models are subclasses of the Transformer, but their ``forward`` also requires the
    target (fairseq/models/nat).
    """
    if not issubclass(model_class, TransformerModelBase):
        return False
    try:
        inspect.signature(model_class.forward).bind("self", src_tokens=None, src_lengths=None, prev_output_tokens=None)
    except TypeError:
        return False
    return True


def refuse_unsupported(model: Any) -> None:
    """Refuse a model that cannot be partitioned.

    Raises:
        ValueError: the model cannot be partitioned; the message names the option to change.
    """
    if not _translates(type(model)) or not transformer_layers(model):
        raise ValueError(f"the model is a {type(model).__name__}; {ALLOWED_ARCHS}")
    noise = model.cfg.quant_noise
    if noise.pq > 0 or noise.scalar > 0:
        raise ValueError(
            f"--quant-noise-pq is {noise.pq} and --quant-noise-scalar is {noise.scalar}; allowed: 0, since the noise "
            "lives in the layers that a partition replaces"
        )


def partition_linears_(model: nn.Module, partition: Partition, initialise: bool = True) -> int:
    """Replace only the linear layers and return their number; see :func:`partition_model_`.

    A layer that only the super-network runs keeps its linear layers.
    """
    whole = {module for stack in stacks(model) for layer in stack.of_super_alone for module in layer.modules()}
    swaps = 0

    def swap(owner: nn.Module, linear: str, name: str, dim: int, groups: int = 1) -> None:
        nonlocal swaps
        share = partition.share(linear)
        if share.module_name is None or owner in whole:
            return
        make: Callable[..., PartitionedModule]
        if share.module_name == RANK:
            make = partial(PartitionedRankLinear.from_linear, initialise=initialise)
        else:
            make = partial(PartitionedLinear.from_linear, dim=dim, groups=groups)
        setattr(owner, name, make(getattr(owner, name), small_ratio=share.ratios, max_level=partition.max_level))
        swaps += 1

    for layer in transformer_layers(model):
        swap(layer, "ffn", "fc1", dim=OUTPUT_DIM)
        swap(layer, "ffn", "fc2", dim=INPUT_DIM)
    for attention in attentions(model):
        for name in ("q_proj", "k_proj"):
            swap(attention, "qk", name, dim=OUTPUT_DIM, groups=attention.num_heads)
        swap(attention, "vo", "v_proj", dim=OUTPUT_DIM, groups=attention.num_heads)
        swap(attention, "vo", "out_proj", dim=INPUT_DIM, groups=attention.num_heads)
    return swaps


def replace_attention_and_dropout_(model: nn.Module) -> None:
    """Replace attention by one that calls its projections, and dropout; see :func:`partition_model_`.

    Raises:
        ValueError: the model has a variant of attention that cannot be replaced.
    """
    for attention in attentions(model):
        PartitionedMultiheadAttention.convert_(attention)
    replace_dropout_(model)


def replace_dropout_(model: nn.Module) -> None:
    """Replace dropout by one that is cheap on a CPU."""
    for dropout in [m for m in model.modules() if isinstance(m, FairseqDropout)]:
        FastDropout.convert_(dropout)


def transformer_layers(model: nn.Module) -> list[TransformerEncoderLayerBase | TransformerDecoderLayerBase]:
    """Return the encoder and decoder layers, in the model's order."""
    kinds = (TransformerEncoderLayerBase, TransformerDecoderLayerBase)
    return [m for m in model.modules() if isinstance(m, kinds)]


def attentions(model: nn.Module) -> list[MultiheadAttention]:
    """Return every self-attention and cross-attention of the encoder and decoder layers."""
    return [m for layer in transformer_layers(model) for m in layer.children() if isinstance(m, MultiheadAttention)]
