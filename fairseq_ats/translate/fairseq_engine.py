"""Translate with a checkpoint, by fairseq's own beam search."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_ats.partition import Partition
from fairseq_ats.surgery import check_model_options
from fairseq_ats.translate.data_folder import DataFolder
from fairseq_ats.translate.engine import Engine, Machine, Pieces, Search


class _StockTask(TranslationTask):
    """fairseq's translation task, which builds what a checkpoint says only after a look at it."""

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        check_model_options(cfg)
        return super().build_model(cfg, from_checkpoint)


class FairseqEngine(Engine):
    """One network of a checkpoint: of this plugin's task, or of stock fairseq's translation task.

    Args:
        path: the checkpoint, which was read once already and found to carry no code.
        partition: the checkpoint's; None for a stock one.
        level: which network; None is the highest. A stock checkpoint has no levels.
        machine: its threads are torch's, which the whole process shares; it has one worker.

    Raises:
        ValueError: the checkpoint does not hold the level, does not fit the data's dictionaries, or has a model that
            cannot be built.
    """

    def __init__(
        self,
        path: Path,
        partition: Partition | None,
        level: int | None,
        data: DataFolder,
        search: Search,
        machine: Machine,
    ) -> None:
        if machine.workers > 1:
            raise ValueError(f"--workers is {machine.workers}; allowed with a checkpoint: 1 (use --threads)")
        if machine.threads is not None:
            torch.set_num_threads(machine.threads)
        self._device = machine.device
        if machine.device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._batch_size = machine.batch_size

        options = {
            "data": str(data.path),
            "source_lang": data.source_language,
            "target_lang": data.target_language,
            # It would build one more generator, by options of the checkpoint.
            "eval_bleu": False,
        }
        task = _StockTask.setup_task(TranslationConfig(**options)) if partition is None else None
        overrides = options if level is None else options | {"max_level": level}
        try:
            (self._model,), cfg, self._task = checkpoint_utils.load_model_ensemble_and_task(
                [str(path)], arg_overrides=overrides, task=task
            )
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit the dictionaries in {data.path}, or its own options: {error}"
            ) from error
        self._model.prepare_for_inference_(cfg)
        self._model.to(self._device)
        decoding = Namespace(
            beam=search.beam, max_len_a=search.max_len_a, max_len_b=search.max_len_b, lenpen=search.length_penalty
        )
        self._generator = self._task.build_generator([self._model], decoding)
        max_source_positions, _ = self._model.max_positions()
        super().__init__(search, max_source_positions)

    def translate(self, sentences: Sequence[Pieces]) -> list[Pieces]:
        translations: list[Pieces] = [[] for _ in sentences]
        by_length = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        for start in range(0, len(by_length), self._batch_size):
            indices = by_length[start : start + self._batch_size]
            for index, translation in zip(indices, self._translate_batch([sentences[i] for i in indices]), strict=True):
                translations[index] = translation
        return translations

    def _translate_batch(self, sentences: Sequence[Pieces]) -> list[Pieces]:
        encode = self._task.source_dictionary.encode_line
        tokens = [encode(" ".join(pieces), add_if_not_exist=False).long() for pieces in sentences]
        dataset = self._task.build_dataset_for_inference(tokens, [len(numbers) for numbers in tokens])
        batch = dataset.collater([dataset[index] for index in range(len(dataset))])
        sample = {"net_input": _moved(batch["net_input"], self._device)}
        beams = self._task.inference_step(self._generator, [self._model], sample)
        translations: list[Pieces] = [[] for _ in sentences]
        for index, hypotheses in zip(batch["id"].tolist(), beams, strict=True):
            translations[index] = self._task.target_dictionary.string(hypotheses[0]["tokens"]).split()
        return translations


def _moved(net_input: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in net_input.items()}
