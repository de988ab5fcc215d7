"""Decode and score the networks of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from sacremoses import MosesTokenizer

from fairseq_ats.checkpoints.average import average_checkpoints
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.choice import last
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.data.lines import raw_lines, raw_references
from fairseq_ats.files import written_whole
from fairseq_ats.inference.engine import Search
from fairseq_ats.inference.evaluation import (
    Network,
    batches_of,
    decode,
    load,
    networks_of,
    search_of,
    test_batches,
    text_of,
    translate,
)
from fairseq_ats.inference.scores import Scorer, TestSet, read_test_sets
from scripts.tables.description import Recipe
from scripts.tables.records import TEST, digest

# Enough to tell searches apart, and of large validation sets few enough to decode a dozen times.
TUNING_SENTENCES = 2000


@dataclass(frozen=True)
class Decoding:
    """Where and how to decode.

    Args:
        tests: a folder of further test sets in raw text.
        comet: a checkpoint of COMET, to score with.
    """

    device: str
    batch_size: int
    tests: Path | None = None
    comet: Path | None = None


@dataclass(frozen=True)
class References:
    """The test set in the target language, and how to score against it.

    Args:
        lowercase: the data are lower-cased, and BLEU is of lower-cased text.
    """

    lines: list[str]
    language: str
    lowercase: bool

    @property
    def digest(self) -> str:
        return digest(self.lines)

    def metric(self) -> sacrebleu.BLEU:
        """Return the metric: BLEU of detokenised text."""
        return sacrebleu.BLEU(lowercase=self.lowercase)

    def tokenised_bleu(self, hypotheses: list[str]) -> tuple[float, str]:
        """Return BLEU of Moses tokens without smoothing, as multi-bleu.perl computes it, and how it was computed."""
        tokenize = partial(MosesTokenizer(self.language).tokenize, return_str=True, escape=False)
        metric = sacrebleu.BLEU(lowercase=self.lowercase, tokenize="none", smooth_method="none", force=True)
        tokenised = ([tokenize(line) for line in lines] for lines in (hypotheses, self.lines))
        score = metric.corpus_score(next(tokenised), [next(tokenised)]).score
        return score, f"sacremoses {self.language}, {metric.get_signature()}"


def score_networks(
    run: Path, recipe: Recipe, data: Path, wanted: tuple[str, ...], references: References, decoding: Decoding
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Return what each wanted network of a finished run scores, and its hypotheses.

    Raises:
        ValueError: the run has no such network, or not the checkpoints that the recipe decodes.
    """
    networks = _networks(run, recipe, wanted)
    folder = DataFolder.find(data, {})
    languages = folder.languages
    further = [] if decoding.tests is None else read_test_sets(decoding.tests, *languages)
    test_set = TestSet(TEST, raw_lines(data, languages[0]) if decoding.comet is not None else [], references.lines)
    scorer = Scorer(references.lowercase, decoding.comet)
    scores, hypotheses = {}, {}
    for network in networks:
        loaded = load(network, data)
        search, validation_bleu = _search(network, loaded, recipe, decoding)
        batches = test_batches(*loaded, len(references.lines), decoding.batch_size)
        decode([network], [loaded], search, batches, decoding.device)
        lines = [network.hypotheses[i] for i in range(len(references.lines))]
        scores[network.name] = {
            "parameters": network.parameters,
            "checkpoint": network.checkpoint.path.name,
            "updates": network.updates,
            "beam": search.beam,
            "length_penalty": search.length_penalty,
            "validation_bleu_of_search": validation_bleu,
            "tests": {TEST: _tokenised(references, lines) | scorer.scores(test_set, lines)},
        }
        for other in further:
            translated = translate(network, data, search, decoding.batch_size, other)
            digests = {"references_sha256": digest(other.references), "hypotheses_sha256": digest(translated)}
            scores[network.name]["tests"][other.name] = scorer.scores(other, translated) | digests
        hypotheses[network.name] = lines
    return scores, hypotheses


def _tokenised(references: References, lines: list[str]) -> dict[str, Any]:
    """Return BLEU of tokens, how it was computed, and digests of both texts."""
    tokenised, tokenised_signature = references.tokenised_bleu(lines)
    return {
        "tokenised_bleu": tokenised,
        "tokenised_signature": tokenised_signature,
        "references_sha256": references.digest,
        "hypotheses_sha256": digest(lines),
    }


def _networks(run: Path, recipe: Recipe, wanted: tuple[str, ...]) -> list[Network]:
    if not (run / "checkpoint_best.pt").is_file():
        raise ValueError(f"{run} is a finished run and has no checkpoint_best.pt; to train again, remove the folder")
    there = {network.name: network for network in networks_of(run)}
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ValueError(f"{run} has the networks {', '.join(there)}; the table needs {', '.join(missing)}")
    networks = [there[name] for name in wanted]
    if recipe.averaged_epochs is not None:
        average = run / "average.pt"
        with written_whole(average) as path:
            torch.save(average_checkpoints(last(run, recipe.averaged_epochs)), path)
        for network in networks:
            network.checkpoint = Checkpoint.open(average)
    return networks


def _search(
    network: Network, loaded: tuple[Any, Any], recipe: Recipe, decoding: Decoding
) -> tuple[Search, float | None]:
    """Return the recipe's search; of several, the best on the validation set, and its BLEU there."""
    choices = [search_of(*choice) for choice in product(recipe.search.beams, recipe.search.length_penalties)]
    if not recipe.search.is_tuned:
        return choices[0], None
    task = loaded[1]
    batches = list(batches_of(*loaded, "valid", decoding.batch_size))
    # Every so many batches: they come in the order of length.
    step = max(1, round(len(task.dataset("valid")) / TUNING_SENTENCES))
    batches = batches[::step]
    # As fairseq's --eval-bleu does: the validation set's text is put together from its pieces.
    targets = {
        index: text_of(task, target)
        for batch in batches
        for index, target in zip(batch["id"].tolist(), batch["target"], strict=True)
    }
    scored = []
    for search in choices:
        trial = Network(network.name, network.checkpoint, network.level)
        decode([trial], [loaded], search, batches, decoding.device)
        pairs = [(trial.hypotheses[index], reference) for index, reference in targets.items()]
        bleu = sacrebleu.corpus_bleu([pair[0] for pair in pairs], [[pair[1] for pair in pairs]]).score
        scored.append((bleu, search))
    bleu, search = max(scored, key=lambda one: one[0])  # of equals, the first: the cheapest
    return search, bleu


def read_references(data: Path) -> References:
    """Read the references of a folder that ``fairseq-ats binarise`` made.

    Raises:
        ValueError: the folder has none.
    """
    folder = DataFolder.find(data, {})
    return References(raw_references(data, folder.target_language), folder.target_language, folder.lowercase)
