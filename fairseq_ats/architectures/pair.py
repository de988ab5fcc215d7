"""Put a second Transformer beside the stock one: the core is the stock network, the super-network adds their logits."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, Namespace
from functools import cache
from types import SimpleNamespace
from typing import Any, NoReturn

from fairseq.models import ARCH_MODEL_REGISTRY, build_model
from fairseq.models.transformer import TransformerModel, TransformerModelBase
from torch import Tensor, nn

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.fields import SIDES, arguments_of
from fairseq_ats.partition.partition import CORE_LEVEL, PAIR_LEVEL, Partition
from fairseq_ats.partition.tags import tag_levels

# Not of an extension: fairseq evaluates the text of some (fairseq/utils.py, ``eval_str_list``); others read files, give
# the output more than one matrix, the vocabulary another size, or sentences another limit than the core's.
_REFUSED = re.compile(
    "adaptive_.*|tie_adaptive_.*|.*_xformers_att_config|.*_layers_to_keep|.*_embed_path|quant_noise_.*|"
    "(checkpoint|offload)_activations|merge_src_tgt_embed|max_(source|target)_positions|base_.*"
)

# The key of the extension's part in what the encoder returns.
_OTHER = "extension"


class Beside(PartitionedModule):
    """The encoder or decoder of the extension, beside that of the core.

    An extension of zeros has an output projection of zeros, without a bias: its logits are 0, and the core is p ⊙ x.
    """

    def __init__(self, extension: nn.Module | None, max_level: int) -> None:
        super().__init__(PAIR_LEVEL, max_level)
        self.extension = extension
        for parameter in self.parameters():
            tag_levels(parameter, (PAIR_LEVEL,))

    @property
    def active(self) -> Any:
        """The extension, if it runs."""
        return self.extension if self.level == PAIR_LEVEL else None


class _PairEncoder:
    """An encoder that returns the output of the other beside its own."""

    beside: Beside

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        output = super().forward(*inputs, **named)  # type: ignore[misc]  # a mixin
        other = self.beside.active
        return output if other is None else output | {_OTHER: other(*inputs, **named)}

    def reorder_encoder_out(self, encoder_out: dict[str, Any], new_order: Tensor) -> dict[str, Any]:
        output = super().reorder_encoder_out(encoder_out, new_order)  # type: ignore[misc]
        other = self.beside.active
        return output if other is None else output | {_OTHER: other.reorder_encoder_out(encoder_out[_OTHER], new_order)}


class _PairDecoder:
    """A decoder that adds the logits of the other to its own. Attention weights are its own.

    Both share one incremental state, in which each attention has a key of its own.
    """

    beside: Beside

    def forward(
        self, prev_output_tokens: Tensor, encoder_out: dict[str, Any] | None = None, **named: Any
    ) -> tuple[Tensor, Any]:
        logits, extra = super().forward(prev_output_tokens, encoder_out=encoder_out, **named)  # type: ignore[misc]
        other = self.beside.active
        if other is None:
            return logits, extra
        if named.get("features_only"):
            raise ValueError("two networks whose logits are added have no common features")
        of_other = None if encoder_out is None else encoder_out[_OTHER]
        return logits + other(prev_output_tokens, encoder_out=of_other, **named)[0], extra


_SIDES = {"encoder": _PairEncoder, "decoder": _PairDecoder}


def put_extension_beside_(model: Any, partition: Partition) -> None:
    """Make a stock Transformer the core of a pair, in place. Its own modules, and their names, stay what they are.

    .. math:: x \\mapsto W h(x) + W' h'(x)

    The second term is the extension's: a Transformer of ``--extension-arch``, with all that it has of its own. This is
    the paper's pair of arbitrary networks, as wide-and-deep networks are (section 3.4, the middle of Figure 1).

    Raises:
        ValueError: the model cannot be half of a pair, or the extension cannot be built.
    """
    given, cfg = f"--extension-arch is {partition.extension_arch}", model.cfg
    if type(model).forward is not TransformerModelBase.forward:
        raise ValueError(f"{given} and the model of --arch is a {type(model).__name__}; allowed: fairseq's Transformer")
    for option, value in (
        ("--adaptive-softmax-cutoff", cfg.adaptive_softmax_cutoff),
        ("--merge-src-tgt-embed", cfg.merge_src_tgt_embed),
        ("--encoder-layers-to-keep", cfg.encoder.layers_to_keep),
        ("--decoder-layers-to-keep", cfg.decoder.layers_to_keep),
    ):
        if value:
            raise ValueError(f"{given} and {option} is {value}; leave one of them out")
    extension = None
    if partition.max_level > CORE_LEVEL:
        options = extension_options(partition.extension_arch, partition.extension_args)
        options.max_source_positions, options.max_target_positions = cfg.max_source_positions, cfg.max_target_positions
        dictionaries = SimpleNamespace(
            source_dictionary=model.encoder.dictionary, target_dictionary=model.decoder.dictionary
        )
        try:
            extension = build_model(options, dictionaries)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"{given} and --extension-args is {partition.extension_args}: {error}") from error
    for name in SIDES:
        side = getattr(model, name)
        side.beside = Beside(None if extension is None else getattr(extension, name), partition.max_level)
        side.__class__ = _paired(side.__class__, _SIDES[name])


def extension_options(arch: str | None, arguments: str | None) -> Namespace:
    """Return the options from which fairseq builds the extension; those that are not given are the arch's.

    Raises:
        ValueError: the arch is not fairseq's Transformer, or an argument is none of its options.
    """
    if ARCH_MODEL_REGISTRY.get(arch) is not TransformerModel:
        raise ValueError(
            f"--extension-arch is {arch}; allowed: fairseq's Transformer, as transformer or transformer_iwslt_de_en"
        )
    given = arguments_of(arguments or "{}")
    refused = [name for name in given if _REFUSED.fullmatch(name)]
    if refused:
        raise ValueError(f"--extension-args has {', '.join(refused)}, which an extension cannot have; leave it out")
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=SUPPRESS)
    TransformerModel.add_args(parser)
    words = ["--" + n.replace("_", "-") + ("" if isinstance(v, bool) else f"={v}") for n, v in given.items()]
    try:
        options = parser.parse_args(words)
    except ValueError as error:
        raise ValueError(f"--extension-args is {arguments}; allowed: options of --extension-arch ({error})") from error
    switches = {name: value for name, value in given.items() if isinstance(value, bool)}
    return Namespace(**vars(options) | switches, arch=arch)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@cache
def _paired(side: type, mixin: type) -> type:
    return type(side.__name__, (mixin, side), {})
