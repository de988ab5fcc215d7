"""Tell which kind of layer a parameter of a fairseq Transformer belongs to."""

from __future__ import annotations

_ATTENTIONS = {"self_attn": "self_attn", "encoder_attn": "cross_attn"}
_PROJECTIONS = {"q_proj": "qk", "k_proj": "qk", "v_proj": "vo", "out_proj": "vo"}


def layer_type(parameter_name: str) -> str:
    """Return a parameter's layer type: ``encoder.layers.3.self_attn.k_proj.core_u`` → ``encoder_self_attn_qk``.

    A type is ``encoder`` or ``decoder``, then one of: ``embedding`` (also learned positions), ``self_attn_qk``,
    ``self_attn_vo``, ``cross_attn_qk``, ``cross_attn_vo`` (``qk``: queries and keys, ``vo``: values and output),
    ``fc1``, ``fc2``, ``norm``, ``output_projection``, ``other``. Layers at all depths share a type. A tied
    parameter counts once, under its first name: with ``--share-all-embeddings`` the shared matrix is the encoder's
    ``embedding`` and nothing else.

    Args:
        parameter_name: a name from ``model.named_parameters()``.
    """
    side, *parts = parameter_name.split(".")
    return f"{side}_{_kind(parts)}"


def _kind(parts: list[str]) -> str:
    attention = next((_ATTENTIONS[part] for part in parts if part in _ATTENTIONS), None)
    projection = next((_PROJECTIONS[part] for part in parts if part in _PROJECTIONS), None)
    if attention and projection:
        return f"{attention}_{projection}"
    if any("norm" in part for part in parts):  # self_attn_layer_norm, layernorm_embedding, ...
        return "norm"
    if any(part.startswith("embed_") for part in parts):
        return "embedding"
    if any(part in ("output_projection", "adaptive_softmax") for part in parts):
        return "output_projection"
    return next((part for part in parts if part in ("fc1", "fc2")), "other")
