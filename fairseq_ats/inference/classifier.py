"""Classify images with a network of a checkpoint, or with a converted one.

``fairseq-ats convert`` writes a converted network as a folder: the network's file (:data:`NETWORK_FILES`), the
description ``fairseq_ats.json`` (format, network, and what :attr:`ImageData.state` says), and ``SHA256SUMS``. The
network takes float32 (batch, channels, height, width), where black is 0 and white is 1, minus the mean and divided by
the deviation, and gives logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fairseq_ats.architectures.resnet import ResNet, ResNetConfig
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.data.image_dataset import normalised
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.inference.deployed_folder import DESCRIPTION_FILE, check_sums
from fairseq_ats.inference.image_loading import load_image_network

NETWORK_FILES = {"torch": "network.pt", "onnx": "network.onnx"}


@dataclass(frozen=True)
class Classifier:
    """A network that is ready to classify.

    Args:
        logits: normalised images (batch, channels, height, width) → (batch, classes).
    """

    data: ImageData
    logits: Callable[[Tensor], Tensor]

    @classmethod
    def open(cls, path: Path, network: str | None = None) -> Classifier:
        """Open a checkpoint, or the folder of a converted network.

        Args:
            network: of a checkpoint: its name or level; None: the highest.

        Raises:
            ValueError: the path holds no such network, or is damaged.
        """
        if not path.is_dir():
            checkpoint = Checkpoint.open(path)
            task, model = load_image_network(checkpoint, None if network is None else checkpoint.level_of(network))
            return cls(task.data, model)
        check_sums(path)
        content = json.loads((path / DESCRIPTION_FILE).read_text("utf-8"))
        if content.get("format") not in NETWORK_FILES or "images" not in content:
            raise ValueError(
                f"{path} holds no network that classifies images; allowed: --to {' or '.join(NETWORK_FILES)}"
            )
        if network not in (None, content["network"]):
            raise ValueError(f"--level is {network}; {path} holds the network {content['network']}")
        opened = open_torch if content["format"] == "torch" else _open_onnx
        return cls(ImageData.of(path, lambda: content["images"]), opened(path / NETWORK_FILES[content["format"]]))

    @torch.no_grad()
    def probabilities(self, images: np.ndarray) -> Tensor:
        """Return the probability of each class, (batch, classes), of uint8 images (batch, height, width, channels)."""
        return self.logits(normalised(images, self.data)).softmax(-1)


def open_torch(path: Path) -> ResNet:
    """Build the network of a state dict, whatever its widths are."""
    return network_of(torch.load(path, weights_only=True))


def network_of(state: Mapping[str, Tensor]) -> ResNet:
    """Return a stock ResNet with these tensors: its sizes are theirs."""
    blocks = [max(int(name.split(".")[1]) + 1 for name in state if name.startswith(f"layer{n}.")) for n in range(1, 5)]
    kind = type("Converted", (ResNet,), {"blocks": tuple(blocks)})
    stem, has_norms = state["conv1.weight"], "bn1.weight" in state
    with torch.device("meta"):
        model = kind(ResNetConfig(width=8, norm="batch" if has_norms else "none"), (8, 8, stem.shape[1]), 2)
    for name, value in state.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        (module._buffers if own in module._buffers else module._parameters)[own] = (
            value if own in module._buffers else nn.Parameter(value)
        )
    return model.eval()


def _open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{path} needs onnxruntime ({error}); pip install 'fairseq-ats[deploy]' installs it"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
