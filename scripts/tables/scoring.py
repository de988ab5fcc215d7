"""From a finished run to what its networks score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from evaluate import Network, Search, batches_of, decode, load, networks_of, raw_references, text_of
from sacremoses import MosesTokenizer

from fairseq_ats.average import average_checkpoints
from fairseq_ats.checkpoint_choice import last_epochs
from fairseq_ats.data_folder import DataFolder
from fairseq_ats.whole_files import written_whole
from tables.description import Recipe
from tables.records import digest

# Enough to tell searches apart, and of large validation sets few enough to decode a dozen times.
TUNING_SENTENCES = 2000


@dataclass(frozen=True)
class Decoding:
    """Where and how to decode."""

    device: str
    batch_size: int


@dataclass(frozen=True)
class References:
    """The test set's lines in the target language, and what belongs to scoring against them.

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
        """BLEU of detokenised text; the signature says how."""
        return sacrebleu.BLEU(lowercase=self.lowercase)

    def tokenised_bleu(self, hypotheses: list[str]) -> tuple[float, str]:
        """BLEU as the older literature has it (multi-bleu.perl): Moses tokens on both sides, no smoothing."""
        tokenize = partial(MosesTokenizer(self.language).tokenize, return_str=True, escape=False)
        metric = sacrebleu.BLEU(lowercase=self.lowercase, tokenize="none", smooth_method="none", force=True)
        tokenised = ([tokenize(line) for line in lines] for lines in (hypotheses, self.lines))
        score = metric.corpus_score(next(tokenised), [next(tokenised)]).score
        return score, f"sacremoses {self.language}, {metric.get_signature()}"


def score_networks(
    run: Path, recipe: Recipe, data: Path, wanted: tuple[str, ...], references: References, decoding: Decoding
) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """What each wanted network of a finished run scores, and its hypotheses.

    Raises:
        ValueError: the run has no such network, or not the checkpoints that the recipe decodes.
    """
    networks = _networks(run, recipe, wanted)
    scores, hypotheses = {}, {}
    for network in networks:
        loaded = load(network, data)
        search, validation_bleu = _search(network, loaded, recipe, decoding)
        decode([network], [loaded], search, batches_of(*loaded, "test", decoding.batch_size), decoding.device)
        lines = [network.hypotheses[i] for i in range(len(references.lines))]
        metric = references.metric()
        tokenised, tokenised_signature = references.tokenised_bleu(lines)
        scores[network.name] = {
            "bleu": metric.corpus_score(lines, [references.lines]).score,
            "signature": str(metric.get_signature()),
            "tokenised_bleu": tokenised,
            "tokenised_signature": tokenised_signature,
            "parameters": network.parameters,
            "checkpoint": Path(network.checkpoint).name,
            "updates": network.updates,
            "beam": search.beam,
            "length_penalty": search.length_penalty,
            "validation_bleu_of_search": validation_bleu,
            "hypotheses_sha256": digest(lines),
        }
        hypotheses[network.name] = lines
    return scores, hypotheses


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
            torch.save(average_checkpoints(last_epochs(run, recipe.averaged_epochs)), path)
        for network in networks:
            network.checkpoint = str(average)
    return networks


def _search(
    network: Network, loaded: tuple[Any, Any], recipe: Recipe, decoding: Decoding
) -> tuple[Search, float | None]:
    """The recipe's search; of several, the one with the best BLEU on the validation set, which comes second."""
    choices = [Search(*choice) for choice in product(recipe.search.beams, recipe.search.length_penalties)]
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
    """Of a folder that ``scripts/binarise.py`` made.

    Raises:
        ValueError: it is none.
    """
    folder = DataFolder.find(data, {})
    return References(raw_references(data, folder.target_language), folder.target_language, folder.lowercase)
