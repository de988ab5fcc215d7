"""Start a new run from the weights of a trained stock Transformer (``--init-from``).

The weights go into the stock model before it is partitioned. So fairseq's own loader checks names and shapes and
upgrades old checkpoints, and the partition starts from trained layers instead of initialised ones. The super-network
starts as the stock model, to rounding. The core starts as its part of it: the first rows (small width), or the best
approximation of its rank (low rank).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from fairseq.data import Dictionary
from fairseq.utils import split_paths
from torch import nn

from fairseq_ats.architectures.importance import order_by_importance_
from fairseq_ats.checkpoints.reading import partition_of, read_checked
from fairseq_ats.checkpoints.saved_options import UNSEEN_IN_WEIGHTS, differing_options, model_options, saved_options
from fairseq_ats.options.config import InitOrder
from fairseq_ats.options.values import StartOptions
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import WIDTH

logger = logging.getLogger(__name__)


def start_from_stock_(
    model: nn.Module, start: StartOptions, partition: Partition, dictionaries: Mapping[str, Dictionary]
) -> None:
    """Fill a stock model, just built, with the weights of ``--init-from``, in the order of ``--init-order``.

    Args:
        start: with ``init_from``.
        dictionaries: the task's dictionaries by language.

    Raises:
        ValueError: the order needs a small-width core; or as :func:`load_stock_weights_`.
    """
    by_importance = start.init_order == InitOrder.IMPORTANCE
    if by_importance and not partition.splits_by(WIDTH):
        raise ValueError(
            f"--init-order is importance and the partition is {partition}, which does not depend on an order; allowed: "
            "unchanged, or a small width (PartitionedLinear)"
        )
    load_stock_weights_(model, cast(str, start.init_from), dictionaries)
    if by_importance:
        order_by_importance_(model, orders_values=partition.share("vo").module_name == WIDTH)


def load_stock_weights_(model: nn.Module, path: str, dictionaries: Mapping[str, Dictionary]) -> None:
    """Fill a stock model, just built, with the weights of a stock checkpoint, and use nothing else in the file.

    Args:
        path: what ``--init-from`` names.
        dictionaries: the task's dictionaries by language.

    Raises:
        ValueError: the file is missing, cannot be read, carries code, holds a partitioned model, or belongs to a model
            with other parameters, options or dictionaries.
    """
    if not os.path.isfile(path):
        raise ValueError(f"--init-from is {path}, which is not a file; allowed: a checkpoint of a stock Transformer")
    try:
        checkpoint = read_checked(path)
    except ValueError as error:
        raise ValueError(f"--init-from: {error}") from error
    if partition_of(checkpoint.get("task_state")) is not None:
        raise ValueError(
            f"--init-from is {path}, which is partitioned already; allowed: a checkpoint of a stock Transformer. "
            "To continue the training of a partitioned one, use --finetune-from-model"
        )
    own_options = {name: getattr(model.cfg, name) for name in UNSEEN_IN_WEIGHTS}
    differences = differing_options(model_options(checkpoint), own_options)
    if differences:
        raise ValueError(f"--init-from is {path}, a model with other options: {'; '.join(differences)}")
    _check_dictionaries(saved_options(checkpoint, "task"), path, dictionaries)

    weights = dict(checkpoint["model"])  # a copy: fairseq upgrades the names in it in place
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"--init-from is {path}, a model of another --arch or with other sizes: {error}") from error
    _check_that_weights_arrived(model, weights, path)
    logger.info(f"weights taken from {path}")


def _check_dictionaries(task_options: Mapping[str, Any], path: str, dictionaries: Mapping[str, Dictionary]) -> None:
    """Compare the dictionaries with the ones of the checkpoint's training, if these are still in their place."""
    folders = split_paths(task_options.get("data") or "")
    for language, dictionary in dictionaries.items():
        file = os.path.join(folders[0], f"dict.{language}.txt") if folders else ""
        if not os.path.isfile(file):
            logger.warning(
                f"--init-from {path}: the dictionary that it was trained with is not at {file or 'any known place'}; "
                f"nothing but the size of this one of {language} was checked"
            )
        elif Dictionary.load(file).symbols != dictionary.symbols:
            raise ValueError(
                f"--init-from is {path}, which was trained with {file}, and that is not the dictionary of {language} "
                "in the data folder of this run; binarise the data with the model's dictionary (fairseq-preprocess "
                "--srcdict, --tgtdict)"
            )


def _check_that_weights_arrived(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse weights that the model does not have: tied embeddings load one of two over the other, without an error."""
    own = model.state_dict()
    lost = [name for name, saved in weights.items() if not torch.equal(own[name], saved.to(own[name].dtype))]
    if lost:
        raise ValueError(
            f"--init-from is {path}, where {lost[0]} has weights of its own, but this model shares them; check "
            "--share-all-embeddings and --share-decoder-input-output-embed"
        )
