"""A Transformer as two modules that can be traced: its encoder, and one step of its decoder.

fairseq's own forward methods ask tensors for values ("is there a pad?", fairseq/models/transformer/
transformer_encoder.py:231 and transformer_decoder.py:328), on which a traced graph cannot depend. Its layers do not;
they are called as they are, so that the thin layers of a low-rank core stay thin.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.models.transformer import TransformerModelBase
from fairseq.modules import MultiheadAttention
from fairseq.utils import make_positions
from torch import Tensor, nn


class EncoderGraph(nn.Module):
    """Source tokens → keys and values of every decoder layer's attention to the source.

    The decoder reads nothing else of the encoder; computed here, they are computed once and not in every step.
    """

    cross_attentions: Iterable[MultiheadAttention]

    def __init__(self, model: TransformerModelBase) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.cross_attentions = nn.ModuleList([layer.encoder_attn for layer in model.decoder.layers])

    def forward(self, source: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(batch, source) → padding (batch, source), true at pads, and for each layer a key and a value.

        Keys are (batch, heads, source, d'), values (batch, heads, source, head_dim).
        """
        encoder = self.encoder
        padding = source.eq(encoder.padding_idx)
        x = encoder.embed_scale * encoder.embed_tokens(source)
        if encoder.embed_positions is not None:
            x = x + _position_table(encoder)[make_positions(source, encoder.padding_idx)]
        if encoder.layernorm_embedding is not None:
            x = encoder.layernorm_embedding(x)
        x = (x * ~padding[:, :, None]).transpose(0, 1)
        for layer in encoder.layers:
            x = layer(x, encoder_padding_mask=padding)
        if encoder.layer_norm is not None:
            x = encoder.layer_norm(x)
        caches = []
        for attention in self.cross_attentions:
            caches += [_by_head(attention.k_proj(x), attention), _by_head(attention.v_proj(x), attention)]
        return padding, caches


class DecoderStepGraph(nn.Module):
    """The last target token and the caches of all tokens before it → logits of the next token, and longer caches."""

    def __init__(self, model: TransformerModelBase) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, token: Tensor, padding: Tensor, cross: list[Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """One step.

        Args:
            token: (batch, 1).
            padding, cross: of :class:`EncoderGraph`, one row for each hypothesis.
            past: for each layer keys (batch, heads, steps, d') and values (batch, heads, steps, head_dim); steps is 0
                at first.

        Returns:
            Logits (batch, 1, vocabulary), and the caches with one step more.
        """
        decoder = self.decoder
        x = decoder.embed_scale * decoder.embed_tokens(token)
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        if decoder.embed_positions is not None:
            first = decoder.padding_idx + 1  # pads have the position padding_idx (fairseq/utils.py, make_positions)
            x = x + _position_table(decoder)[first + past[0].shape[2]]
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        x = x.transpose(0, 1)
        longer = []
        for number, layer in enumerate(decoder.layers):
            own, source = past[2 * number : 2 * number + 2], cross[2 * number : 2 * number + 2]
            state: dict[str, dict[str, Tensor | None]] = {}
            x, _, _ = layer(
                x,
                encoder_out=x,  # any tensor: keys and values of the source are in the cache
                incremental_state=state,
                prev_self_attn_state=own,
                prev_attn_state=[*source, padding],
            )
            saved = layer.self_attn._get_input_buffer(state)
            longer += [saved["prev_key"], saved["prev_value"]]
        if decoder.layer_norm is not None:
            x = decoder.layer_norm(x)
        x = x.transpose(0, 1)
        if decoder.project_out_dim is not None:
            x = decoder.project_out_dim(x)
        return decoder.output_layer(x), longer


def _position_table(side: Any) -> Tensor:
    """Vectors by position: the buffer of sinusoidal ones, or the learned parameter."""
    positions = side.embed_positions
    return positions.weight if isinstance(positions, nn.Embedding) else positions.weights


def _by_head(projected: Tensor, attention: MultiheadAttention) -> Tensor:
    """(time, batch, heads·d) → (batch, heads, time, d), as attention caches it."""
    return projected.unflatten(-1, (attention.num_heads, -1)).permute(1, 2, 0, 3)


def example_inputs(model: TransformerModelBase) -> tuple[tuple, tuple]:
    """Inputs to trace both graphs with: 2 sentences of 5 tokens, after 3 steps of the decoder.

    The sizes differ from each other and from 1: a trace takes sizes of 1 for constants.
    """
    source = torch.full((2, 5), model.encoder.dictionary.eos())
    padding, cross = EncoderGraph(model)(source)
    past = []
    for layer in model.decoder.layers:
        attention = layer.self_attn
        for projection in (attention.k_proj, attention.v_proj):
            features = projection(torch.zeros(1, layer.embed_dim)).shape[-1]
            past.append(torch.zeros(2, attention.num_heads, 3, features // attention.num_heads))
    return (source,), (source[:, :1], padding, cross, past)
