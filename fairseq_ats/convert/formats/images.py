"""Write one network of a ResNet as a stock network: ``--to torch`` and ``--to onnx`` of a task of images."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME
from fairseq_ats.checkpoints.reading import read_header
from fairseq_ats.checkpoints.saved_options import saved_options
from fairseq_ats.convert.formats.onnx import OnnxModel
from fairseq_ats.convert.output_check import check_output
from fairseq_ats.convert.verification import VerificationError
from fairseq_ats.cost.images import random_images
from fairseq_ats.files import written_whole
from fairseq_ats.host import safetensors_file
from fairseq_ats.inference.classifier import NETWORK_FILES, Classifier, network_of
from fairseq_ats.inference.deployed_folder import write_description
from fairseq_ats.inference.image_loading import load_image_network
from fairseq_ats.modules.conv2d import PartitionedConv2d
from fairseq_ats.modules.linear import PartitionedLinear
from fairseq_ats.modules.norm import PrivateNorm

logger = logging.getLogger("fairseq_ats.convert")

TOLERANCE = 1e-4  # of logits, where only the order of sums differs
_IMAGES = 8


def is_of_images(path: Path) -> bool:
    """Return whether a task of images wrote a checkpoint; False if the file cannot be read."""
    try:
        return saved_options(read_header(str(path)), "task").get("_name") == IMAGE_TASK_NAME
    except (OSError, ValueError):
        return False


def convert_images(checkpoint: Checkpoint, network: str, to: str, output: Path, overwrite: bool) -> None:
    """Convert one network, and compare it with its source on random images. Leave nothing behind after an error.

    Args:
        network: its name or level.
        to: a key of :data:`NETWORK_FILES`.

    Raises:
        ValueError: an option is not allowed.
        VerificationError: the result and its source do not compute the same.
    """
    if to not in NETWORK_FILES:
        raise ValueError(f"--to is {to}; allowed for a network of images: {', '.join(NETWORK_FILES)}")
    if to == "onnx":
        OnnxModel().require_packages()
    check_output(output, [checkpoint.path], True, overwrite)
    level = checkpoint.level_of(network)
    task, model = load_image_network(checkpoint, level)
    images = random_images(task.data, _IMAGES)["net_input"]["images"]
    state = stock_state(model)
    with written_whole(output, is_folder=True) as folder:
        if to == "torch":
            safetensors_file.save(state, folder / NETWORK_FILES[to])
        else:
            _export(network_of(state), images, folder / NETWORK_FILES[to])
        name = task.partition.network_name(level)
        description = {"format": to, "network": name, "level": level, "partition": task.partition.to_dict()}
        write_description(folder, description | {"images": task.data.state})
        with torch.no_grad():
            difference = float((model(images) - Classifier.open(folder).logits(images)).abs().max())
        if not difference <= TOLERANCE:  # also refuses NaN
            raise VerificationError(f"logits differ from the source's by {difference:.2g}; allowed: {TOLERANCE:g}")
        logger.info(f"{name}: logits differ by at most {difference:.2g} on {_IMAGES} images (allowed: {TOLERANCE:g})")
    logger.info(f"wrote {output}")


def stock_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the network that runs as a stock ResNet's state dict, in torchvision's order."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, PartitionedConv2d | PartitionedLinear):
            state[f"{name}.weight"] = module.weight.detach().clone()
            if module.bias is not None:
                state[f"{name}.bias"] = module.bias.detach().clone()
        elif isinstance(module, PrivateNorm):
            state |= {f"{name}.{own}": value.clone() for own, value in module.active.state_dict().items()}
    return state


def _export(network: nn.Module, images: Tensor, path: Path) -> None:
    torch.onnx.export(
        network,
        (images,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
