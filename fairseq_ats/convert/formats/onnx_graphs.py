"""Present a Transformer as two modules that can be traced: its encoder, and one step of its decoder.

fairseq's forward methods branch on the values of tensors ("is there a pad?", fairseq/models/transformer/
transformer_encoder.py:231 and transformer_decoder.py:328). A traced graph cannot do so. fairseq's layers do not branch
on values, so the modules call them unchanged, and the thin layers of a low-rank core stay thin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.models.transformer import TransformerModelBase
from fairseq.modules import MultiheadAttention
from fairseq.utils import make_positions
from torch import Tensor, nn

from fairseq_ats.architectures.transformer import attentions
from fairseq_ats.modules import PartitionedMultiheadAttention


class _TracedAttention(PartitionedMultiheadAttention):
    """The same attention in fewer operations.

    PyTorch's fused attention would be traced as ten more, which also copy the keys in every step. And no query lacks
    keys: a hypothesis sees itself, and a source has an end.
    """

    def _has_fused_kernel(self, q: Tensor, v: Tensor) -> bool:
        return False

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return self._scores(q, k, mask).softmax(-1)


@contextmanager
def traced_attention(model: TransformerModelBase) -> Iterator[None]:
    """Let the model's attention be one for tracing while the context lasts."""
    changed = {one: type(one) for one in attentions(model)}
    for attention in changed:
        attention.__class__ = _TracedAttention
    try:
        yield
    finally:
        for attention, own in changed.items():
            attention.__class__ = own


class EncoderGraph(nn.Module):
    """The encoder: source tokens → keys and values for the cross-attention of every decoder layer.

    The decoder reads nothing else from the encoder. This graph computes the keys and values once; otherwise every
    step would compute them again.
    """

    cross_attentions: Iterable[MultiheadAttention]

    def __init__(self, model: TransformerModelBase) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.cross_attentions = nn.ModuleList([layer.encoder_attn for layer in model.decoder.layers])

    def forward(self, source: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode the source tokens (batch, source).

        Returns:
            The padding (batch, source), true at pads; and for each decoder layer the keys (batch, heads, source, d')
            and then the values (batch, heads, source, head_dim). d' is the number of key dimensions of a head.
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
    """One step of the decoder: the last target tokens and the caches → the next tokens' logits and longer caches.

    The hypotheses of a sentence stand where fairseq's layers expect the time. So they share the sentence's keys and
    values, both those of the source and those of all earlier steps; a mask hides the hypotheses that a hypothesis does
    not descend from. No cache is reordered between steps, or repeated for each hypothesis.
    """

    def __init__(self, model: TransformerModelBase) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, token: Tensor, padding: Tensor, others: Tensor, cross: list[Tensor], past: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one step.

        Args:
            token: the last target token of each hypothesis, (batch, beam).
            padding, cross: the outputs of :class:`EncoderGraph`.
            others: added to the scores of the self-attention, (batch, beam, past + beam): 0 at the hypothesis itself
                and at those that it descends from, -inf at the others.
            past: for each layer the keys (batch, heads, past, d') and then the values (batch, heads, past, head_dim) of
                all hypotheses of all steps before this one, step by step. Every step has ``beam`` hypotheses, but the
                first may have fewer.

        Returns:
            The logits (batch, beam, vocabulary), and the caches with the hypotheses of this step, too.
        """
        decoder = self.decoder
        x = decoder.embed_scale * decoder.embed_tokens(token)
        if decoder.project_in_dim is not None:
            x = decoder.project_in_dim(x)
        if decoder.embed_positions is not None:
            first = decoder.padding_idx + 1  # padding_idx is the pads' position (fairseq/utils.py, make_positions)
            steps = (past[0].shape[2] + token.shape[1] - 1) // token.shape[1]
            x = x + _position_table(decoder)[first + steps]
        if decoder.layernorm_embedding is not None:
            x = decoder.layernorm_embedding(x)
        x = x.transpose(0, 1)
        longer = []
        for number, layer in enumerate(decoder.layers):
            own, source = past[2 * number : 2 * number + 2], cross[2 * number : 2 * number + 2]
            state: dict[str, dict[str, Tensor | None]] = {}
            x, _, _ = layer(
                x,
                encoder_out=x,  # any tensor: the cache holds the keys and values of the source
                incremental_state=state,
                prev_self_attn_state=own,
                prev_attn_state=[*source, padding],
                self_attn_mask=others[:, None],
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
    """Return the position vectors, one in each row: the buffer of sinusoidal positions, or the learned parameter."""
    positions = side.embed_positions
    return positions.weight if isinstance(positions, nn.Embedding) else positions.weights


def _by_head(projected: Tensor, attention: MultiheadAttention) -> Tensor:
    """Reshape (time, batch, heads·d) to (batch, heads, time, d), the shape of an attention's cache."""
    return projected.unflatten(-1, (attention.num_heads, -1)).permute(1, 2, 0, 3)


def example_inputs(model: TransformerModelBase) -> tuple[tuple, tuple]:
    """Return inputs for tracing both graphs: 2 sentences of 5 tokens, after 3 steps of the decoder with beam 4.

    The sizes differ from each other and from 1, because a trace treats a size of 1 as a constant.
    """
    beam, steps = 4, 3
    source = torch.full((2, 5), model.encoder.dictionary.eos())
    padding, cross = EncoderGraph(model)(source)
    past = []
    for layer in model.decoder.layers:
        attention = layer.self_attn
        for projection in (attention.k_proj, attention.v_proj):
            features = projection(torch.zeros(1, layer.embed_dim)).shape[-1]
            past.append(torch.zeros(2, attention.num_heads, steps * beam, features // attention.num_heads))
    others = torch.zeros(2, beam, (steps + 1) * beam)
    return (source,), (source[:, :beam], padding, others, cross, past)
