"""Average the parameters of several checkpoints of a run.

Average the trained parameters themselves. A low-rank layer trains V, U and W, so V and U are averaged separately. Do
not average the product: mean(VU) differs from mean(V) mean(U), and its rank would be larger than the core's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from fairseq_ats.checkpoints.choice import read_training_checkpoint
from fairseq_ats.checkpoints.keys import DICTIONARIES_KEY
from fairseq_ats.checkpoints.reading import partition_of, read_checked
from fairseq_ats.checkpoints.saved_options import differing_options, model_options, saved_options


def average_checkpoints(paths: Sequence[str]) -> dict[str, Any]:
    """Return a checkpoint whose parameters are the means over several checkpoints.

    Sum in float64, so that the order of the checkpoints matters only for rounding. Return each parameter in its own
    type. Take integer tensors, options and the task's state from the last checkpoint. Drop the optimizer state, the EMA
    weights and the validation scores: they do not describe the average.

    Args:
        paths: the checkpoints; options and task state come from the last one.

    Raises:
        ValueError: a file is missing or damaged, cannot be read, or carries code; the models have batch norms; or they
            differ in partition, dictionaries, languages, parameters, shared embeddings or options.
    """
    checkpoints = [read_training_checkpoint(path, read_checked) for path in paths]
    last = checkpoints[-1]
    if any(name.endswith("running_mean") for name in last["model"]):
        raise ValueError(
            f"{paths[-1]} has batch norms, and averaged weights would need running statistics of their own"
        )
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        _check_same_model(checkpoint, last, f"{path} and {paths[-1]}")
    return {
        **{key: value for key, value in last.items() if key != "last_optimizer_state"},
        "model": _average([checkpoint["model"] for checkpoint in checkpoints]),
        "extra_state": {
            "train_iterator": last["extra_state"]["train_iterator"],  # fairseq cannot read a checkpoint that has none
            "average_of": [os.path.basename(path) for path in paths],
        },
    }


def _check_same_model(one: Mapping[str, Any], other: Mapping[str, Any], names: str) -> None:
    """Check that two checkpoints hold the same model, so that their parameters can be averaged.

    Args:
        names: both paths, for the error message.

    Raises:
        ValueError: the models differ in partition, dictionaries, languages, parameters, shared embeddings or options.
    """
    partitions = [partition_of(checkpoint.get("task_state")) for checkpoint in (one, other)]
    if partitions[0] != partitions[1]:
        raise ValueError(f"{names} have different partitions: {partitions[0]} and {partitions[1]}")
    dictionaries = [(checkpoint.get("task_state") or {}).get(DICTIONARIES_KEY) for checkpoint in (one, other)]
    if None not in dictionaries and dictionaries[0] != dictionaries[1]:  # checkpoints of older versions lack the entry
        raise ValueError(f"{names} were trained with different dictionaries: their numbers stand for different words")
    tasks = [saved_options(checkpoint, "task") for checkpoint in (one, other)]
    for option in ("source_lang", "target_lang"):
        # The option is absent if fairseq took the languages from the names of the data files.
        languages = [task[option] for task in tasks if task.get(option) is not None]
        if len(set(languages)) > 1:
            raise ValueError(
                f"{names} translate different languages: --{option.replace('_', '-')} is {' and '.join(languages)}"
            )
    shapes = [{name: value.shape for name, value in checkpoint["model"].items()} for checkpoint in (one, other)]
    different = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
    if different:
        raise ValueError(f"{names} hold different models: {different[0]} is not the same in both")
    shared = sorted(_shared_embeddings(one["model"]) ^ _shared_embeddings(other["model"]))
    if shared:
        raise ValueError(f"{names} hold different models: {' and '.join(shared[0])} are one tensor in one of them only")
    differences = differing_options(*(model_options(checkpoint) for checkpoint in (one, other)))
    if differences:
        raise ValueError(f"{names} hold models with different options: {'; '.join(differences)}")


def _shared_embeddings(model: Mapping[str, Tensor]) -> set[tuple[str, str]]:
    """Return all pairs of embedding names whose tensors are equal.

    Compare values and not storage: a run on a GPU saves a shared tensor once for each of its names.
    """
    kinds = {"embed_tokens", "output_projection", "adaptive_softmax"}
    names = sorted(name for name in model if kinds & set(name.split(".")))
    return {(a, b) for a, b in combinations(names, 2) if torch.equal(model[a], model[b])}


def _average(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each parameter, and keep shared parameters shared."""
    means = {name: _mean([model[name] for model in models]) for name in models[-1]}
    # A shared embedding has several names. Keep one tensor for all of them, so that it is saved once, as before.
    first_names: dict[tuple, str] = {}
    for name, value in models[-1].items():
        shared = first_names.setdefault((value.data_ptr(), value.shape, value.stride()), name)
        if torch.equal(means[name], means[shared]):
            means[name] = means[shared]
    return means


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape, summed in float64; for integers, return a copy of the last tensor."""
    last = tensors[-1]
    if not last.is_floating_point():
        return last.clone()
    total = torch.zeros(last.shape, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(last.dtype)
