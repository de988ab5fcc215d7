"""Allow PyTorch to unpickle the classes in fairseq's checkpoints, and no others."""

from __future__ import annotations

import argparse
import typing
from collections import defaultdict

import numpy as np
import torch
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

# fairseq stores its options as a Namespace. After a validation with --eval-bleu it also stores the BLEU counts as numpy
# arrays (fairseq/tasks/translation.py, "_bleu_counts").
_IN_CHECKPOINTS = (
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]  # numpy has it and does not declare it
    np.dtypes.Int64DType,
    np.dtypes.Float64DType,
)

# On resume the first worker reads the checkpoint and sends it to the other workers. The configuration in it uses
# omegaconf's containers (fairseq/distributed/utils.py, broadcast_object).
_BETWEEN_WORKERS = (
    DictConfig,
    ListConfig,
    ContainerMetadata,
    Metadata,
    AnyNode,
    typing.Any,
    defaultdict,
    dict,
    list,
    int,
    _TensorPlaceholder,
)


def allow_fairseq_checkpoints() -> None:
    """Allow PyTorch's weights-only loader to read fairseq's checkpoints, but no class that could run code.

    Without these names ``torch.load`` of torch >= 2.6 refuses every checkpoint of ``fairseq-train``, and a training
    with several workers cannot resume.
    """
    torch.serialization.add_safe_globals([*_IN_CHECKPOINTS, *_BETWEEN_WORKERS])
