"""Name the options of a stock Transformer that other programs' Transformers lack."""

from __future__ import annotations

from collections.abc import Collection

from fairseq.models.transformer import TransformerConfig


def unsupported_options(cfg: TransformerConfig, activations: Collection[str]) -> list[str]:
    """Return one message for each option of the model that neither CTranslate2 nor ``transformers`` supports.

    Args:
        activations: the values of ``--activation-fn`` that the other program has.
    """
    problems = different_sides(cfg, "normalize_before", "normalize-before")
    if cfg.activation_fn not in activations:
        problems.append(f"--activation-fn is {cfg.activation_fn}; allowed: {', '.join(activations)}")
    for what in ("input_dim", "output_dim"):
        if getattr(cfg.decoder, what) != cfg.decoder.embed_dim:
            size, width = getattr(cfg.decoder, what), cfg.decoder.embed_dim
            problems.append(
                f"--decoder-{what.replace('_', '-')} is {size}; allowed: {width}, the value of --decoder-embed-dim"
            )
    if cfg.adaptive_softmax_cutoff is not None:
        problems.append("--adaptive-softmax-cutoff is given")
    # CTranslate2's graph reads the first layer of the encoder and of the decoder.
    empty = [side for side in ("encoder", "decoder") if getattr(cfg, side).layers == 0]
    problems += [f"--{side}-layers is 0; allowed: 1 or more" for side in empty]
    switches = (
        "no_token_positional_embeddings",
        "no_cross_attention",
        "cross_self_attention",
        "adaptive_input",
        "no_decoder_final_norm",
    )
    return problems + given(cfg, switches)


def different_sides(cfg: TransformerConfig, name: str, option: str) -> list[str]:
    """Return one message if an option of the encoder has not the value of the same option of the decoder."""
    encoder, decoder = getattr(cfg.encoder, name), getattr(cfg.decoder, name)
    if encoder == decoder:
        return []
    return [f"--encoder-{option} is {encoder} and --decoder-{option} is {decoder}; they must be equal"]


def given(cfg: TransformerConfig, switches: Collection[str]) -> list[str]:
    """Return one message for each switch that is on."""
    return [f"--{switch.replace('_', '-')} is given" for switch in switches if getattr(cfg, switch)]
