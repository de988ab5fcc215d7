"""Build models and batches without a corpus, to count and time the work of real ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from fairseq import options
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.translation import TranslationTask
from torch import nn

from fairseq_ats.checkpoints.names import last_checkpoint
from fairseq_ats.checkpoints.saved_options import forget_start_files_
from fairseq_ats.data.image_folder import ImageData

# Arguments that fairseq-train requires.
_REQUIRED = ["no-data", "--max-tokens", "1", "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]

# Options of this plugin's task (some are copies of fairseq's) that name the files from which a training starts or
# resumes. These values name no file.
_NO_START = {
    "save_dir": os.devnull,
    "restore_file": last_checkpoint(),
    "continue_once": None,
    "finetune_from_model": None,
    "init_from": None,
}


@dataclass
class Built:
    """The objects that ``fairseq-train`` builds from its command line."""

    cfg: Any
    task: Any
    model: nn.Module
    criterion: nn.Module


def numbered_dictionary(size: int) -> Dictionary:
    """Return a vocabulary of ``size`` entries, including fairseq's special symbols.

    Raises:
        ValueError: ``size`` leaves no room for an entry besides the special symbols.
    """
    dictionary = Dictionary()
    if size <= len(dictionary):
        raise ValueError(f"--vocabulary is {size}; allowed: more than the {len(dictionary)} special symbols")
    for number in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{number}")
    dictionary.finalize(padding_factor=1)
    return dictionary


def build(arguments: list[str], data: Dictionary | ImageData, seed: int = 1) -> Built:
    """Build the task, model and criterion of ``fairseq-train ARGUMENTS``, with one dictionary for both languages.

    Do not read the files from which the training would start or resume.

    Args:
        data: the dictionary, or what the images of a task of images are.
    """
    parser = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, input_args=_REQUIRED + arguments))
    forget_start_files_(cfg.model)
    cfg.task.update({name: value for name, value in _NO_START.items() if name in cfg.task})
    torch.manual_seed(seed)
    given = (data, data) if isinstance(data, Dictionary) else (data,)
    task = TASK_REGISTRY[cfg.task._name](cfg.task, *given)
    return Built(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))


def random_batch(task: TranslationTask, sentences: int, length: int) -> dict[str, Any]:
    """Return a mini-batch of ``sentences`` pairs with ``length`` tokens on each side and no padding.

    Every call with the same arguments returns the same tokens.
    """
    generator = torch.Generator().manual_seed(1)

    def side(dictionary: Dictionary) -> list[torch.Tensor]:
        tokens = torch.randint(dictionary.nspecial, len(dictionary), (sentences, length), generator=generator)
        tokens[:, -1] = dictionary.eos()
        return list(tokens)

    sizes = [length] * sentences
    source, target = task.source_dictionary, task.target_dictionary
    dataset = LanguagePairDataset(side(source), sizes, source, tgt=side(target), tgt_sizes=sizes, tgt_dict=target)
    return dataset.collater([dataset[i] for i in range(sentences)])
