"""Write a folder that Hugging Face's ``transformers`` loads with ``from_pretrained``: ``--to huggingface``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from fairseq_ats.convert.folder_contents import complete_folder
from fairseq_ats.convert.folding import check_dense, dense_cost, side_sizes, stock_parameters
from fairseq_ats.convert.limits import given, unsupported_options
from fairseq_ats.convert.model_card import model_card
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.convert.source_network import SourceNetwork
from fairseq_ats.convert.verification import (
    VerificationError,
    check_difference,
    check_same_beams,
    engine_of,
    log_probabilities,
    random_pairs,
)
from fairseq_ats.data.text import Text
from fairseq_ats.host import safetensors_file
from fairseq_ats.inference.engine import Machine, Search
from fairseq_ats.inference.huggingface_engine import (
    CARD_FILE,
    END,
    PAD,
    PIECES_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    HuggingFaceEngine,
    no_progress_bars,
)

# Nats; as for the folded weights of --to fairseq. The largest difference that was measured is 4e-6.
TOLERANCE = 1e-4

# --activation-fn → the same function in transformers (transformers/activations.py, ACT2FN).
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "tanh": "tanh",
    "linear": "linear",
}

NOT_MARIAN = (
    "the positions of Marian in transformers have other frequencies than fairseq's, and it lacks the norm after the "
    "last layer; allowed: huggingface, which writes FSMT or M2M100"
)

# What the fairseq names of parameters begin with that transformers computes itself.
_COMPUTED = ("encoder.embed_positions", "decoder.embed_positions", "encoder.version", "decoder.version")
_OUTPUT = "decoder.output_projection.weight"
_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True)
class HuggingFaceModel(OutputFormat):
    """The format of ``--to huggingface``: FSMT for post-norm Transformers, M2M100 for pre-norm ones.

    Args:
        dense: allow a low-rank network below the super-network. Its thin layers become dense.
    """

    dense: bool = False

    is_folder: ClassVar[bool] = True
    packages: ClassVar[Sequence[str]] = ("transformers", "safetensors")
    extra: ClassVar[str] = "huggingface"

    def check(self, source: SourceNetwork) -> None:
        check_dense(source, self.dense, "huggingface")
        cfg = source.model.cfg
        problems = unsupported_options(cfg, ACTIVATIONS)
        problems += given(cfg, ["layernorm_embedding"])
        for side in ("encoder", "decoder"):
            if getattr(cfg, side).learned_pos:
                problems.append(f"--{side}-learned-pos is given")
        if cfg.encoder.embed_dim != cfg.decoder.embed_dim:
            sizes = f"--encoder-embed-dim is {cfg.encoder.embed_dim} and --decoder-embed-dim is {cfg.decoder.embed_dim}"
            problems.append(f"{sizes}; they must be equal")
        if problems:
            raise ValueError(f"transformers cannot hold this model: {'; '.join(problems)}. --to onnx can hold more")
        check_tokenizer(source)

    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        yield from dense_cost(source)
        model = transformers_model(source)
        with no_progress_bars(), safetensors_file.errors_naming(path / WEIGHTS_FILE):
            model.save_pretrained(str(path))
        _generation_config(source).save_pretrained(str(path))
        _write_tokenizer(source, path)
        card = path / CARD_FILE
        card.write_text(model_card(source, type(model).__name__), "utf-8")
        (path / WEIGHTS_FILE).chmod(card.stat().st_mode)  # safetensors lets nobody else read it
        complete_folder(source, path, "huggingface", "float32", "transformers", PIECES_FILE)
        yield f"transformers: {type(model).__name__}"
        if source.data.lowercase:
            yield "the tokenizer of transformers does not lower-case: give it text.lower(), as README.md says"

    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        engine = HuggingFaceEngine(path, source.model.max_positions(), Search(beam=beam), Machine(device="cpu"))
        pairs = random_pairs(source)
        expected = torch.cat(log_probabilities(source.model, source.task, pairs))
        yield check_difference("logits", expected, torch.cat(_log_probabilities(engine, pairs)), TOLERANCE)
        yield _check_tokenizer_of(source, path, pairs)
        if sentences:
            own = engine_of(source.model, source.task, beam)
            yield check_same_beams(own.best(sentences), engine.best(sentences), own.longest(own.max_source_pieces))


def check_tokenizer(source: SourceNetwork) -> None:
    """Require one vocabulary for both languages, which is a sentencepiece model's.

    Raises:
        ValueError: there is no sentencepiece model, the dictionaries differ, or a symbol is not one of its pieces.
    """
    if source.sentencepiece_model is None:
        raise ValueError(
            f"--to huggingface needs a sentencepiece model, and {source.data.path} has none; --sentencepiece-model "
            "names it. Another tokenizer is not supported; --to fairseq and --to ctranslate2 need none"
        )
    dictionary = source.task.source_dictionary
    if dictionary != source.task.target_dictionary:
        raise ValueError(
            f"--to huggingface has one vocabulary for both languages, and the two dictionaries in {source.data.path} "
            "differ; fairseq-preprocess --joined-dictionary makes one. --to ctranslate2 has two"
        )
    Text(source.sentencepiece_model)  # raises if it is not a sentencepiece model
    pieces = SentencePieceProcessor(model_file=str(source.sentencepiece_model))
    known = {pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())}
    # fairseq fills a dictionary up with such words to a multiple of 8 (fairseq/data/dictionary.py:175).
    own = [symbol for symbol in dictionary.symbols[dictionary.nspecial :] if not symbol.startswith("madeupword")]
    others = [symbol for symbol in own if symbol not in known]
    if others:
        raise ValueError(
            f"{len(others)} of {len(own)} symbols of the dictionary in {source.data.path} are not pieces of "
            f"{source.sentencepiece_model}, such as {others[0]!r}: the text was cut by another tokenizer"
        )


def transformers_model(source: SourceNetwork) -> Any:
    """Return the network as a model of ``transformers``, with the weights of :func:`stock_parameters`."""
    from transformers import FSMTConfig, FSMTForConditionalGeneration, M2M100Config, M2M100ForConditionalGeneration

    parameters = stock_parameters(source.model)
    options = _options(source, parameters)
    weights = {name: value for name, value in parameters.items() if not name.startswith(_COMPUTED)}
    size = len(source.task.source_dictionary)
    if source.model.cfg.encoder.normalize_before:
        model = M2M100ForConditionalGeneration(M2M100Config(vocab_size=size, **options))
        weights = {f"model.{name}": value for name, value in weights.items()}
        weights["lm_head.weight"] = weights.pop(f"model.{_OUTPUT}")
        weights["model.shared.weight"] = parameters[_EMBEDDINGS[0]]
    else:
        languages = [source.task.cfg.source_lang, source.task.cfg.target_lang]
        config = FSMTConfig(langs=languages, src_vocab_size=size, tgt_vocab_size=size, **options)
        model = FSMTForConditionalGeneration(config)
        weights = {f"model.{name}": value for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    others = [name for name in missing if "embed_positions" not in name] + unexpected
    if others:
        raise VerificationError(f"transformers has other parameters than this network: {', '.join(sorted(others))}")
    return model.eval()


def _options(source: SourceNetwork, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options that both configurations of ``transformers`` have."""
    cfg = source.model.cfg
    options: dict[str, Any] = {}
    for side, sizes in side_sizes(parameters).items():
        of_side = getattr(cfg, side)
        options |= {
            f"{side}_layers": sizes["layers"],
            f"{side}_ffn_dim": sizes["ffn_embed_dim"],
            f"{side}_attention_heads": of_side.attention_heads,
            f"{side}_layerdrop": of_side.layerdrop,
        }
    tied = [parameters[name] for name in _EMBEDDINGS]
    return options | {
        "d_model": cfg.decoder.embed_dim,
        "activation_function": ACTIVATIONS[cfg.activation_fn],
        "scale_embedding": not cfg.no_scale_embedding,
        "tie_word_embeddings": all(torch.equal(one, parameters[_OUTPUT]) for one in tied),
        "max_position_embeddings": max(source.model.max_positions()),
        "dropout": cfg.dropout,
        "attention_dropout": cfg.attention_dropout,
        "activation_dropout": cfg.activation_dropout,
    }


def _generation_config(source: SourceNetwork) -> Any:
    """Return fairseq's defaults of decoding under the names of ``transformers``."""
    from transformers import GenerationConfig

    search = Search()
    return GenerationConfig(
        num_beams=search.beam,
        length_penalty=search.length_penalty,
        early_stopping=True,  # as fairseq: when a sentence has as many finished hypotheses as the beam is wide
        max_new_tokens=min(search.max_len_b, source.model.max_positions()[1] - 1) + 1,
        min_new_tokens=1,  # fairseq's --min-len
        suppress_tokens=[PAD],  # fairseq/sequence_generator.py:363
        decoder_start_token_id=END,
        bos_token_id=0,
        pad_token_id=PAD,
        eos_token_id=END,
        forced_eos_token_id=END,  # a translation of the longest length has an end, as in fairseq
    )


def _write_tokenizer(source: SourceNetwork, folder: Path) -> None:
    """Write the tokenizer: sentencepiece itself, and the dictionary's numbers of its pieces.

    Of the tokenizers of ``transformers`` that run sentencepiece, this one adds nothing but the end-of-sentence: no
    token of a language, and no normalisation. It is as good for text.
    """
    from transformers import Speech2TextTokenizer

    numbers = {symbol: number for number, symbol in enumerate(source.task.source_dictionary.symbols)}
    vocabulary = folder / VOCABULARY_FILE
    vocabulary.write_text(json.dumps(numbers, ensure_ascii=False, indent=0) + "\n", "utf-8")
    tokenizer = Speech2TextTokenizer(
        str(vocabulary),
        str(source.sentencepiece_model),
        model_max_length=source.model.max_positions()[0],
        split_special_tokens=True,  # "</s>" in a text is text
    )
    tokenizer.save_pretrained(str(folder))


def _log_probabilities(engine: HuggingFaceEngine, pairs: Sequence[tuple[list[str], list[str]]]) -> list[Tensor]:
    """Return what :func:`~fairseq_ats.convert.verification.log_probabilities` does."""
    source, target = (engine.batch(side) for side in zip(*pairs, strict=True))
    previous = torch.cat([torch.full_like(target[:, :1], END), target[:, :-1]], 1)
    previous[previous.eq(END) & (torch.arange(previous.shape[1]) > 0)] = PAD  # the end of a shorter sentence
    with torch.no_grad():
        logits = engine.model(
            input_ids=source, attention_mask=source.ne(PAD), decoder_input_ids=previous, use_cache=False
        ).logits
    every = logits.log_softmax(-1)
    return [every[number, : len(target) + 1] for number, (_, target) in enumerate(pairs)]


def _check_tokenizer_of(source: SourceNetwork, folder: Path, pairs: Sequence[tuple[list[str], list[str]]]) -> str:
    """Compare the numbers that the folder's tokenizer gives to text with the dictionary's.

    Raises:
        VerificationError: they differ.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    text = Text(source.sentencepiece_model)
    dictionary = source.task.source_dictionary
    lines = [text.decode(pieces) for pair in pairs for pieces in pair] + ["", "</s> \U0001f9a6  <pad>"]
    for line in lines:
        expected = [dictionary.index(piece) for piece in text.encode(line)] + [dictionary.eos()]
        found = tokenizer(line)["input_ids"]
        if found != expected:
            raise VerificationError(f"the tokenizer numbers {line!r} as {found}, and fairseq as {expected}")
    return f"tokenizer: the same numbers for {len(lines)} lines"
