"""Decode test sets with the networks of a run, and measure what they score and how fast they are."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from fairseq import utils

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.names import best_checkpoint
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.data.lines import raw_lines, raw_references
from fairseq_ats.data.text import WORD_START
from fairseq_ats.inference.engine import Search
from fairseq_ats.inference.loading import load_network, prepare_to_decode
from fairseq_ats.inference.pruned import kept_neurons, prune_
from fairseq_ats.inference.scores import TEST, Scorer, TestSet, read_test_sets
from fairseq_ats.inference.translator import Translator
from fairseq_ats.partition.partition import PERTURBED


@dataclass
class Network:
    """One network to decode, and its measurements.

    Args:
        name: "core", "super", "level2", ..., "perturbed" (what --scheme prune leaves), or "standard" (a stock model).
        checkpoint: the checkpoint of the network.
        level: the number of the network; None for a stock model.
        updates: the number of updates before the checkpoint was written.
        parameters: the number of the network's parameters.
        bleu: the BLEU of the hypotheses.
        signature: sacreBLEU's signature.
        tests: the scores of each test set by its name, as of :meth:`~fairseq_ats.inference.scores.Scorer.scores`.
        words: the number of words in all hypotheses.
        seconds: the decoding time.
        hypotheses: the text for each sentence of the test set, by the number of the sentence from 0.
    """

    name: str
    checkpoint: Checkpoint = field(repr=False)
    level: int | None
    updates: int = 0
    parameters: int = 0
    bleu: float = 0.0
    signature: str = ""
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    words: int = 0
    seconds: float = 0.0
    hypotheses: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def words_per_second(self) -> float:
        """The number of hypothesis words per second of decoding."""
        return self.words / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the network's fields and its speed, without the hypotheses, as values for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "hypotheses"}
        return values | {"checkpoint": str(self.checkpoint.path), "words_per_second": self.words_per_second}


def search_of(beam: int, length_penalty: float = 1.0) -> Search:
    """Return a search whose hypotheses have at most 1.2 * (source tokens) + 10 tokens."""
    return Search(beam, max_len_a=1.2, max_len_b=10, length_penalty=length_penalty)


def evaluate(
    data: Path,
    run: Path,
    suffix: str,
    search: Search,
    batch_size: int,
    tests: Path | None = None,
    comet: Path | None = None,
) -> list[Network]:
    """Decode the test set with every network of a run, and return the networks with their measurements.

    Write the hypotheses of each network into the folder of the run, one line a sentence, as
    ``test.NETWORK<suffix>.txt``, and those of a further test set as ``NAME.NETWORK<suffix>.txt``.

    Args:
        data: the folder of binarised data with the raw references.
        run: the folder of the run.
        suffix: the training's ``--checkpoint-suffix``.
        search: the options of the beam search.
        batch_size: the number of sentences in a batch.
        tests: a folder of further test sets in raw text, ``NAME.SOURCE`` and ``NAME.TARGET``; speed is not measured on
            them.
        comet: a checkpoint of COMET; None leaves COMET out.

    Raises:
        ValueError: a checkpoint, the data or a test set cannot be used.
    """
    networks = networks_of(run, suffix)
    folder = DataFolder.find(data, networks[0].checkpoint.options("task"))
    further = [] if tests is None else read_test_sets(tests, folder.source_language, folder.target_language)
    scorer = Scorer(folder.lowercase, comet)
    loaded = [load(network, data) for network in networks]
    model, task = loaded[0]
    references = raw_references(data, task.cfg.target_lang)
    sources = raw_lines(data, task.cfg.source_lang) if comet is not None else []
    decode(networks, loaded, search, test_batches(model, task, len(references), batch_size))
    for network in networks:
        hypotheses = [network.hypotheses[i] for i in range(len(references))]
        translated = [(TestSet(TEST, sources, references), hypotheses)]
        translated += [(test_set, translate(network, data, search, batch_size, test_set)) for test_set in further]
        for test_set, lines in translated:
            output = run / f"{test_set.name}.{network.name}{suffix}.txt"
            output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            network.tests[test_set.name] = scorer.scores(test_set, lines)
        network.bleu, network.signature = (network.tests[TEST][key] for key in ("bleu", "signature"))
    return networks


def translate(network: Network, data: Path, search: Search, batch_size: int, test_set: TestSet) -> list[str]:
    """Return a network's translations of raw text."""
    translator = Translator(
        network.checkpoint.path,
        PERTURBED if network.name == PERTURBED else network.level,
        data=data,
        beam=search.beam,
        max_len_a=search.max_len_a,
        max_len_b=search.max_len_b,
        length_penalty=search.length_penalty,
        batch_size=batch_size,
    )
    return translator(test_set.sources)


def conditions(networks: Sequence[Network], beam: int, batch_size: int, threads: int) -> dict[str, Any]:
    """Return the results of :func:`evaluate` and the conditions of the measurement, as values for JSON."""
    partition = networks[0].checkpoint.partition
    return {
        "partition": None if partition is None else partition.to_dict(),
        "beam": beam,
        "batch_size": batch_size,
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "networks": [network.to_dict() for network in networks],
    }


def networks_of(run: Path, suffix: str = "") -> list[Network]:
    """Return every network that a run trained, from the highest down, or the one stock model.

    Take the best checkpoint of each network, ``checkpoint_best_core.pt``, ``checkpoint_best_level2.pt``, ...; take
    ``checkpoint_best.pt`` for a network without such a file.

    Raises:
        ValueError: a checkpoint cannot be read, or the checkpoints in the folder come from different runs.
    """
    best = Checkpoint.open(run / best_checkpoint(suffix))
    partition = best.partition
    if partition is None:
        return [Network("standard", best, None)]
    networks = []
    for level in reversed(partition.levels):
        name = partition.network_name(level)
        path = run / best_checkpoint(suffix, name)
        own = Checkpoint.open(path) if path.is_file() else best
        if own.partition != partition:
            raise ValueError(
                f"{best.path} and {path.name} come from different runs: they have {partition} and {own.partition}"
            )
        networks.append(Network(name, own, level))
    return networks + _pruned(run / best_checkpoint(suffix, PERTURBED), best)


def _pruned(path: Path, best: Checkpoint) -> list[Network]:
    """Return the network that --scheme prune left, if the run has pruned neurons."""
    own = Checkpoint.open(path) if path.is_file() else best
    if own.partition is None or own.partition != best.partition or not kept_neurons(own):
        return []
    return [Network(PERTURBED, own, own.partition.max_level)]


def load(network: Network, data: Path) -> tuple[Any, Any]:
    """Return the model and the task, built as ``fairseq-generate`` builds them.

    Record the number of updates and of parameters in ``network``.
    """
    checkpoint = network.checkpoint
    model, task = load_network(checkpoint, DataFolder.find(data, checkpoint.options("task")), network.level)
    network.updates = checkpoint.updates
    network.parameters = sum(p.numel() for p in model.parameters())
    if network.name == PERTURBED:
        network.parameters -= prune_(model, checkpoint)
    prepare_to_decode(model)
    return model, task


def batches_of(model: Any, task: Any, subset: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Return the mini-batches of a subset, ordered by length, which contain every sentence once.

    Args:
        batch_size: the largest number of sentences in a mini-batch.

    Raises:
        ValueError: a source sentence is longer than the model accepts.
    """
    task.load_dataset(subset)
    dataset = task.dataset(subset)
    longest, _ = model.max_positions()  # the length of the references does not matter: the model does not read them
    for number, size in enumerate(dataset.src_sizes.tolist(), start=1):
        if size > longest:
            raise ValueError(
                f"{task.cfg.data}: sentence {number:,} of {subset} has {size:,} tokens with its end, and the network "
                f"takes {longest:,}; remove it from the data, or use fairseq-ats translate, which cuts long lines "
                "into parts"
            )
    return task.get_batch_iterator(dataset, max_sentences=batch_size).next_epoch_itr(shuffle=False)


def test_batches(model: Any, task: Any, references: int, batch_size: int) -> Iterator[dict[str, Any]]:
    """Return :func:`batches_of` the test set.

    Raises:
        ValueError: as there, or the number of references is not that of the sentences.
    """
    batches = batches_of(model, task, TEST, batch_size)
    count = len(task.dataset(TEST))
    if references != count:
        raise ValueError(
            f"{task.cfg.data}/{TEST}.{task.cfg.target_lang} has {references:,} lines, and the binarised {TEST} has "
            f"{count:,} sentences"
        )
    return batches


def decode(
    networks: list[Network],
    loaded: list[tuple[Any, Any]],
    search: Search,
    batches: Iterable[dict[str, Any]],
    device: str = "cpu",
) -> None:
    """Decode batches with every network, and record the hypotheses, words and seconds in ``networks``.

    Alternate between the networks batch by batch in one process, so that their speeds are comparable on a busy machine.

    Args:
        loaded: the model and the task of each network, in the order of ``networks``.
    """
    options = argparse.Namespace(
        beam=search.beam, lenpen=search.length_penalty, max_len_a=search.max_len_a, max_len_b=search.max_len_b
    )
    turns = [
        (network, model.to(device), own_task, own_task.build_generator([model], options))
        for network, (model, own_task) in zip(networks, loaded, strict=True)
    ]
    for number, batch in enumerate(batches):
        # Start each batch with another network, so that no network always profits from warm caches.
        shift = number % len(turns)
        for network, model, task, generator in turns[shift:] + turns[:shift]:
            start = time.perf_counter()
            beams = task.inference_step(generator, [model], utils.move_to_cuda(batch) if device == "cuda" else batch)
            network.seconds += time.perf_counter() - start
            for index, beam in zip(batch["id"].tolist(), beams, strict=True):
                text = text_of(task, beam[0]["tokens"].cpu())
                network.hypotheses[index] = text
                network.words += len(text.split())


def text_of(task: Any, tokens: torch.Tensor) -> str:
    """Return the text of target token ids, a 1-D tensor that may contain padding; words of whole tokens stay apart."""
    dictionary = task.target_dictionary
    has_pieces = any(symbol.startswith(WORD_START) for symbol in dictionary.symbols)
    return dictionary.string(utils.strip_pad(tokens, dictionary.pad()), "sentencepiece" if has_pieces else None)
