"""Multi-head attention that calls its projections, so that a core computes less."""

from __future__ import annotations

from typing import cast

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor
from torch.nn import functional as F

IncrementalState = dict[str, dict[str, Tensor | None]]

# The float32 numbers of a vector register (AVX-512).
_VECTOR = 16


class PartitionedMultiheadAttention(MultiheadAttention):
    """fairseq's attention with partitioned key and query projections.

    Stock fairseq trains through ``F.multi_head_attention_forward``, which reads ``q_proj.weight`` instead of calling
    ``q_proj`` (fairseq/modules/multihead_attention.py:539): a core would multiply by full-size matrices. This class
    calls the projections, and computes the rest with ``F.scaled_dot_product_attention``.

    Keys and queries may be narrower than values: in the small-width core each head has ``d'`` < ``head_dim`` key
    dimensions. The scores are still scaled by ``head_dim ** -0.5``, so the core is exactly the super-network with its
    extension masked to zero (Algorithm 2 of the paper).

    Caches, reordering and the state dict are inherited. Cached keys have the shape (batch, heads, time, d').
    """

    @classmethod
    def convert_(cls, attention: MultiheadAttention) -> PartitionedMultiheadAttention:
        """Turn a stock attention module into this class in place, and keep its parameters.

        Raises:
            ValueError: the module uses a variant of attention that this class does not support.
        """
        for variant in ("use_xformers", "bias_k", "add_zero_attn"):
            value = getattr(attention, variant)
            if value is not None and value is not False:
                raise ValueError(f"attention with {variant} is not supported in a partitioned model")
        # Not rebuilt: the module keeps its weights and its identity, which is the key of the decoder's caches.
        attention.__class__ = cls
        return attention

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: IncrementalState | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as the stock module does: (time, batch, channel) in and out.

        Args:
            key_padding_mask: (batch, source), true at pads.
            attn_mask: (target, source), added to the scores.
            need_weights: return the attention weights; otherwise None takes their place.
            static_kv: keys and values come from the encoder: compute them once, then read them from the cache.
            before_softmax: return the scores (batch·heads, target, source) and the values instead.
            need_head_weights: return the weights of each head (heads, batch, target, source) and not their mean.
        """
        tgt_len, bsz, _ = query.shape
        saved_state = None
        if incremental_state is not None:
            saved_state = self._get_input_buffer(incremental_state)
            if static_kv and "prev_key" in saved_state:
                key = value = None

        q = self._split_heads(self.q_proj(query))
        if self.self_attention:
            key = value = query
        elif self.encoder_decoder_attention and key is not None:
            if incremental_state is not None:  # in teacher forcing the batch holds sentences, not hypotheses
                key, key_padding_mask = self._first_of_each_beam(key, key_padding_mask, bsz)
            value = key
        k = None if key is None else self._split_heads(self.k_proj(key))
        v = None if value is None else self._split_heads(self.v_proj(value))

        if saved_state is not None:
            k, v, key_padding_mask = self._append_to_cache(saved_state, k, v, key_padding_mask, static_kv)
            self._set_input_buffer(incremental_state, saved_state)

        assert k is not None  # computed, or from the cache
        assert v is not None
        if k.shape[0] != bsz:  # the cache holds one entry for all hypotheses of a sentence
            beam = bsz // k.shape[0]
            k, v = k.repeat_interleave(beam, 0), v.repeat_interleave(beam, 0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.repeat_interleave(beam, 0)

        mask = self._additive_mask(attn_mask, key_padding_mask, q.dtype)
        if before_softmax:
            return self._scores(q, k, mask).flatten(0, 1), v.flatten(0, 1)
        weights = None
        if need_weights or need_head_weights or not self._has_fused_kernel(q, v):
            weights = self._weights(q, k, mask)
            context = self.dropout_module(weights.type_as(q)) @ v
        else:
            context = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=self._dropout_p(), scale=self.scaling
            )
        if weights is not None and need_head_weights:
            weights = weights.transpose(0, 1)
        elif weights is not None and need_weights:
            weights = weights.mean(1)
        else:
            weights = None
        context = context.permute(2, 0, 1, 3).reshape(tgt_len, bsz, -1)
        return self.out_proj(context), weights

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape (time, batch, heads·d) → (batch, heads, time, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scores = (q * self.scaling) @ k.transpose(-2, -1)
        return scores if mask is None else scores + mask

    def _weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, heads, target, source), in float32 at least, as the stock module, whatever the model's precision.

        A query whose keys are all masked, as of a target that is padded on the left, has weights 0. So it has in
        PyTorch's kernels, through which the stock module trains; the softmax of its row would be 0 / 0.
        """
        dtype = torch.promote_types(q.dtype, torch.float32)
        if mask is None:
            return _softmax(self._scores(q, k, mask), dtype)
        without_keys = (mask == -torch.inf).all(-1, keepdim=True)
        # Before the softmax for its gradient, and after it for the weights.
        weights = _softmax(self._scores(q, k, mask.masked_fill(without_keys, 0.0)), dtype)
        return weights.masked_fill(without_keys, 0.0)

    def _has_fused_kernel(self, q: Tensor, v: Tensor) -> bool:
        """Return whether PyTorch has a fast attention kernel for these queries and values.

        On a CPU the fused kernel takes no dropout and no narrower keys (aten/src/ATen/native/transformers/
        sdp_utils_cpp.cpp), and is slow in bfloat16 (results/speed/notes.md). On CUDA, narrower keys need a multiple of
        8 dimensions (cuda/sdp_utils.cpp, ``check_head_dim_size_mem_efficient``); the fallback converts everything to
        float32.
        """
        same_width = q.shape[-1] == v.shape[-1]
        if q.device.type != "cpu":
            return same_width or q.shape[-1] % 8 == 0
        return same_width and q.dtype in (torch.float32, torch.float64) and self._dropout_p() == 0.0

    def _dropout_p(self) -> float:
        module = self.dropout_module
        return module.p if module.training or module.apply_during_inference else 0.0

    def _first_of_each_beam(
        self, key: Tensor, key_padding_mask: Tensor | None, bsz: int
    ) -> tuple[Tensor, Tensor | None]:
        """Keep one entry for each sentence, not for each hypothesis, as ``set_beam_size`` asks for (BART)."""
        if self.beam_size == 1 or bsz != key.shape[1]:
            return key, key_padding_mask
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask[:: self.beam_size]
        return key[:, :: self.beam_size], key_padding_mask

    def _append_to_cache(
        self,
        saved_state: dict[str, Tensor | None],
        k: Tensor | None,
        v: Tensor | None,
        key_padding_mask: Tensor | None,
        static_kv: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        has_previous = "prev_key" in saved_state
        if has_previous and static_kv:
            k, v = saved_state["prev_key"], saved_state["prev_value"]
        assert k is not None  # computed, or from the cache
        assert v is not None
        if has_previous and not static_kv:
            k = torch.cat([cast(Tensor, saved_state["prev_key"]), k], dim=2)
            v = torch.cat([cast(Tensor, saved_state["prev_value"]), v], dim=2)
        key_padding_mask = self._append_prev_key_padding_mask(
            key_padding_mask=key_padding_mask,
            prev_key_padding_mask=saved_state.get("prev_key_padding_mask"),
            batch_size=k.shape[0],
            src_len=k.shape[2],
            static_kv=static_kv,
        )
        saved_state["prev_key"] = k
        saved_state["prev_value"] = v
        saved_state["prev_key_padding_mask"] = key_padding_mask
        return k, v, key_padding_mask

    @staticmethod
    def _additive_mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Combine both masks into one that is added to the scores (batch, heads, target, source)."""
        mask = attn_mask
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
        mask = None if mask is None else mask.to(dtype)
        if key_padding_mask is not None:
            pads = key_padding_mask.bool()[:, None, None, :]
            padding = torch.zeros(pads.shape, dtype=dtype, device=pads.device)
            padding = padding.masked_fill(pads, float("-inf"))
            mask = padding if mask is None else mask + padding
        return mask


def _softmax(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the softmax of each row in ``dtype``.

    PyTorch's kernel for a CPU takes a row that is shorter than a vector register element by element
    (aten/src/ATen/native/cpu/SoftMaxKernel.cpp). Such a row gets more elements, of weight 0, which is faster
    (results/speed/notes.md).
    """
    length = scores.shape[-1]
    if scores.device.type != "cpu" or length >= _VECTOR:
        return scores.softmax(-1, dtype=dtype)
    return F.pad(scores, (0, _VECTOR - length), value=-torch.inf).softmax(-1, dtype=dtype)[..., :length]
