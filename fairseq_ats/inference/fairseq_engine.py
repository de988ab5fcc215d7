"""Translate with a fairseq model and fairseq's own beam search."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks.translation import TranslationTask

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.data.text import READS_TOKENS, Languages, Text
from fairseq_ats.inference.engine import BatchedEngine, Engine, Hypothesis, Machine, Search
from fairseq_ats.inference.loading import load_network, prepare_to_decode
from fairseq_ats.inference.pruned import prune_
from fairseq_ats.inference.torch_machine import use_torch_on
from fairseq_ats.partition.partition import PERTURBED

logger = logging.getLogger(__name__)


class FairseqEngine(BatchedEngine):
    """A fairseq model that is ready to decode.

    Args:
        model: the model.
        task: the task with the model's dictionaries.
        search: the options of the beam search.
        batch_size: the number of sentences in a batch.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        model: FairseqEncoderDecoderModel,
        task: TranslationTask,
        search: Search,
        batch_size: int,
        device: str,
    ) -> None:
        super().__init__(search, model.max_positions(), batch_size)
        self._model = model.to(device)
        self._task = task
        self._device = device
        options = Namespace(
            beam=search.beam, max_len_a=search.max_len_a, max_len_b=search.max_len_b, lenpen=search.length_penalty
        )
        self._generator = task.build_generator([self._model], options)

    def _best_of_batch(self, sentences: Sequence[Sequence[str]]) -> list[Hypothesis]:
        encode = self._task.source_dictionary.encode_line
        tokens = [encode(" ".join(pieces), add_if_not_exist=False).long() for pieces in sentences]
        dataset = self._task.build_dataset_for_inference(tokens, [len(numbers) for numbers in tokens])
        batch = dataset.collater([dataset[index] for index in range(len(dataset))])
        net_input = {name: tensor.to(self._device) for name, tensor in batch["net_input"].items()}
        beams = self._task.inference_step(self._generator, [self._model], {"net_input": net_input})
        target = self._task.target_dictionary
        found: dict[int, Hypothesis] = {}
        for index, hypotheses in zip(batch["id"].tolist(), beams, strict=True):
            numbers = hypotheses[0]["tokens"].tolist()
            words = tuple(target[number] for number in numbers if number != target.eos())
            found[index] = Hypothesis(words, float(hypotheses[0]["score"]))
        return [found[index] for index in range(len(sentences))]


def open_checkpoint(
    path: Path, level: str | int | None, data: Path | None, model: Path | None, search: Search, machine: Machine
) -> tuple[Engine, Text, Languages]:
    """Open one network of a checkpoint.

    Args:
        data: the folder with the dictionaries; None means the folder that the checkpoint was trained with.
        model: the sentencepiece model; None means the model in ``data``, if there is one.

    Raises:
        ValueError: a file is missing or damaged, or the checkpoint does not contain the level.
    """
    checkpoint = Checkpoint.open(path)
    partition = checkpoint.partition
    if partition is None and level is not None:
        raise ValueError(f"--level is {level} and {path} holds one network, without levels; leave it out")
    folder = DataFolder.find(data, checkpoint.options("task"))
    model = model or folder.sentencepiece_model
    if model is None:
        logger.warning(f"{folder.path} has {READS_TOKENS}")
    elif not model.is_file():
        raise ValueError(f"--sentencepiece-model is {model}, which is not a file")
    text = Text(model, folder.lowercase)
    device = use_torch_on(machine)
    number = None
    if partition is not None and level is not None and level != PERTURBED:
        number = partition.level_of(level)
    network, task = load_network(checkpoint, folder, number)
    if level == PERTURBED:
        prune_(network, checkpoint)
    prepare_to_decode(network)
    return FairseqEngine(network, task, search, machine.batch_size, device), text, folder.languages
