"""Give core updates other targets than the super-network's: the same sources, translated by a better network.

Small networks learn more from a large network's translations than from references (Kim and Rush, "Sequence-level
knowledge distillation", EMNLP 2016). This is not in the paper of this plugin.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import BaseWrapperDataset, Dictionary, LanguagePairDataset

from fairseq_ats.data.checks import check_split, dictionary_sum, parts_of, read_dictionary

# The key of a mini-batch under which the targets of the core are.
CORE_TARGETS = "core_targets"


class CoreTargets(BaseWrapperDataset):
    """Sentence pairs with a second target each.

    A batch has the size of the longer target, so that ``--max-tokens`` holds for both networks.

    Args:
        dataset: the pairs of the super-network.
        core: the pairs of the smaller networks, with the same sources in the same order.
    """

    def __init__(self, dataset: LanguagePairDataset, core: LanguagePairDataset) -> None:
        super().__init__(dataset)
        self.core = core
        dataset.tgt_sizes = np.maximum(dataset.tgt_sizes, core.tgt_sizes)
        dataset.sizes = np.vstack((dataset.src_sizes, dataset.tgt_sizes)).T

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index] | {CORE_TARGETS: self.core[index]}

    def collater(self, samples: Sequence[dict[str, Any]], pad_to_length: Any = None) -> dict[str, Any]:
        """Return the mini-batch of the super-network, with what is different for the smaller networks in it."""
        batch = self.dataset.collater(samples, pad_to_length)
        if batch:
            # The order within a batch depends on the lengths of the sources alone (language_pair_dataset.py:78).
            core = self.core.collater([sample[CORE_TARGETS] for sample in samples], pad_to_length)
            batch[CORE_TARGETS] = {
                "target": core["target"],
                "ntokens": core["ntokens"],
                "prev_output_tokens": core["net_input"]["prev_output_tokens"],
            }
        return batch

    def prefetch(self, indices: Any) -> None:
        """Read ahead (--dataset-impl cached)."""
        for pairs in (self.dataset, self.core):
            pairs.prefetch(indices)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.dataset.num_tokens_vec(indices)

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        return self.dataset.filter_indices_by_size(indices, max_sizes)


def with_core_targets(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a mini-batch as the smaller networks see it; one without other targets stays as it is."""
    core = sample.get(CORE_TARGETS)
    if core is None:
        return sample
    net_input = sample["net_input"] | {"prev_output_tokens": core["prev_output_tokens"]}
    return sample | {"net_input": net_input, "target": core["target"], "ntokens": core["ntokens"]}


def check_core_data(folder: str, data: str, split: str, dictionaries: Sequence[tuple[str, Dictionary]]) -> None:
    """Check the files of ``--core-data`` against those of the super-network.

    Args:
        data: the folder of the super-network's data.
        dictionaries: pairs of language and dictionary, the source first.

    Raises:
        ValueError: a file is missing or damaged, or dictionaries or sources differ.
    """
    languages = [language for language, _ in dictionaries]
    for language, dictionary in dictionaries:
        path = Path(folder, f"dict.{language}.txt")
        if not path.is_file():
            raise ValueError(f"--core-data is {folder}, which has no {path.name}")
        if dictionary_sum(read_dictionary(path)) != dictionary_sum(dictionary):
            raise ValueError(f"--core-data is {folder}, whose {path.name} is not that of {data}; use its dictionaries")
    pairs = [list(parts_of(path, split, *languages)) for path in (data, folder)]
    if pairs[0] != pairs[1]:
        said = ["; ".join(names) or "nothing" for names in pairs]
        raise ValueError(f"--core-data is {folder}, which has {said[1]} of {split}, and {data} has {said[0]}")
    check_split(folder, split, dictionaries)
    for pair in pairs[0]:
        for end in ("idx", "bin"):
            name = f"{pair}.{languages[0]}.{end}"
            if not filecmp.cmp(os.path.join(data, name), os.path.join(folder, name), shallow=False):
                raise ValueError(
                    f"--core-data is {folder}, whose {name} is not that of {data}; its sources must be the same, line "
                    "by line"
                )
