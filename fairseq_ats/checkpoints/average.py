"""Average the parameters of several checkpoints of a run.

    fairseq-ats-average RUN --last-epochs 5 --output RUN/average.pt
    fairseq-ats-average RUN --best 5 --network core --output RUN/average_core.pt
    fairseq-ats-average RUN/checkpoint10.pt RUN/checkpoint11.pt --output RUN/average.pt

Checkpoints are chosen for one network, and averaged whole. The best checkpoints of the core need not be those of the
super-network, so there is one average for each, as there is one best checkpoint for each. But the core's parameters are
the super-network's too, and a super-network put together from two different averages was never trained. So every file
holds all networks; decode one that was chosen for the core with --max-level 1.

Averaged are the parameters as they were trained. Of a low-rank layer these are V, U and W, and mean(V) mean(U) is not
mean(VU), whose rank would be larger than the core's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq_ats.checkpoints import choice as checkpoint_choice
from fairseq_ats.checkpoints.choice import read_training_checkpoint
from fairseq_ats.checkpoints.keys import DICTIONARIES_KEY
from fairseq_ats.checkpoints.reading import check_sums, partition_of
from fairseq_ats.checkpoints.saved_options import differing_options, model_options, saved_options
from fairseq_ats.cli.arguments import positive
from fairseq_ats.files import written_whole


def average_checkpoints(paths: Sequence[str]) -> dict[str, Any]:
    """One checkpoint with the mean of the parameters of several.

    Sums are taken in float64, so that the order of the checkpoints does not matter beyond rounding, and the mean has
    the parameters' own type. Integer tensors, options and the task's state are those of the last checkpoint. Left out,
    since they are of no average: the optimizer's state, EMA weights, and the values of validations.

    Raises:
        ValueError: a file that is missing, damaged, cannot be read or carries code, or belongs to a model with another
            partition, other dictionaries or languages, other parameters, other shared embeddings or other options.
    """
    checkpoints = [read_training_checkpoint(path) for path in paths]
    for path in paths:
        check_sums(path)
    last = checkpoints[-1]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        _check_same_model(checkpoint, last, f"{path} and {paths[-1]}")
    return {
        **{key: value for key, value in last.items() if key != "last_optimizer_state"},
        "model": _average([checkpoint["model"] for checkpoint in checkpoints]),
        "extra_state": {
            "train_iterator": last["extra_state"]["train_iterator"],  # fairseq reads no checkpoint without one
            "average_of": [os.path.basename(path) for path in paths],
        },
    }


def _check_same_model(one: Mapping[str, Any], other: Mapping[str, Any], names: str) -> None:
    partitions = [partition_of(checkpoint.get("task_state")) for checkpoint in (one, other)]
    if partitions[0] != partitions[1]:
        raise ValueError(f"{names} have different partitions: {partitions[0]} and {partitions[1]}")
    dictionaries = [(checkpoint.get("task_state") or {}).get(DICTIONARIES_KEY) for checkpoint in (one, other)]
    if None not in dictionaries and dictionaries[0] != dictionaries[1]:  # an older checkpoint does not say
        raise ValueError(f"{names} were trained with different dictionaries: their numbers stand for different words")
    tasks = [saved_options(checkpoint, "task") for checkpoint in (one, other)]
    for option in ("source_lang", "target_lang"):
        languages = [task.get(option) for task in tasks]
        if None not in languages and languages[0] != languages[1]:  # None: it was read off the data
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
    """Pairs of names of equal embeddings; a training on a GPU saves a shared tensor once for each of its names."""
    kinds = {"embed_tokens", "output_projection", "adaptive_softmax"}
    names = sorted(name for name in model if kinds & set(name.split(".")))
    return {(a, b) for a, b in combinations(names, 2) if torch.equal(model[a], model[b])}


def _average(models: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    means = {name: _mean([model[name] for model in models]) for name in models[-1]}
    # Shared embeddings have several names. As one tensor they are saved once, as in the checkpoints.
    first_names: dict[tuple, str] = {}
    for name, value in models[-1].items():
        shared = first_names.setdefault((value.data_ptr(), value.shape, value.stride()), name)
        if torch.equal(means[name], means[shared]):
            means[name] = means[shared]
    return means


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    last = tensors[-1]
    if not last.is_floating_point():
        return last.clone()
    total = torch.zeros(last.shape, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(last.dtype)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        paths = _chosen(args)
        # Opened first: whether it can be written is known before minutes of reading.
        with written_whole(args.output) as temporary:
            torch.save(average_checkpoints(paths), temporary)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{args.output}: average of {', '.join(os.path.basename(path) for path in paths)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fairseq-ats-average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="RUN|CHECKPOINT", help="a run's folder, or checkpoints")
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--last-epochs", type=positive, metavar="N", help="of a run: the last N of checkpointE.pt")
    choice.add_argument("--last-updates", type=positive, metavar="N", help="of a run: the last N of checkpoint_E_U.pt")
    choice.add_argument("--best", type=positive, metavar="N", help="of a run: the N with the best validation")
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="with --best: whose validation, by the run's --best-checkpoint-metric: core, super, or one between the "
        "two, as level2 (default: the highest network)",
    )
    parser.add_argument("--checkpoint-suffix", default="", metavar="SUFFIX", help="of a run: fairseq-train's option")
    return parser


def _chosen(args: argparse.Namespace) -> list[str]:
    """The checkpoints to average, oldest first where the run says so."""
    if args.network is not None and args.best is None:
        raise ValueError(f"--network is {args.network}, which needs --best")
    if not (args.last_epochs or args.last_updates or args.best):
        folders = [path for path in args.inputs if path.is_dir()]
        if folders:
            raise ValueError(f"{folders[0]} is a folder; add --last-epochs N, --last-updates N or --best N")
        return [str(path) for path in args.inputs]
    run = args.inputs[0]
    if len(args.inputs) > 1 or not run.is_dir():
        given = " ".join(map(str, args.inputs))
        raise ValueError(f"--last-epochs, --last-updates and --best choose from the folder of one run; given: {given}")
    if args.last_epochs is not None:
        return checkpoint_choice.last_epochs(run, args.last_epochs, args.checkpoint_suffix)
    if args.last_updates is not None:
        return checkpoint_choice.last_updates(run, args.last_updates, args.checkpoint_suffix)
    found = checkpoint_choice.best(run, args.best, args.network, args.checkpoint_suffix)
    for one in found:
        print(f"{os.path.basename(one.path)}: {one.metric} {one.value:g} after {one.updates:,} updates")
    return [one.path for one in sorted(found, key=lambda one: one.updates)]


if __name__ == "__main__":
    sys.exit(main())
