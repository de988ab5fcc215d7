"""Give prepared images to fairseq as mini-batches, with augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from fairseq_ats.data.image_folder import ImageData


def normalised(images: np.ndarray, data: ImageData) -> Tensor:
    """Return uint8 (batch, height, width, channels) as float32 (batch, channels, height, width).

    The memory stays in the order of ``images``, which is PyTorch's channels-last.
    """
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)


class ImageDataset(FairseqDataset):
    """One split. An item is an image's number; :meth:`collater` makes the mini-batch.

    Augmentation is a function of seed, epoch and image alone: batch size, workers and resumption do not change it.

    Args:
        crop_padding: cut an image out of itself with so many black pixels on each side, at a random place.
        flip: probability that an image is mirrored.
        shuffles: whether each epoch has an order of its own.
    """

    def __init__(
        self,
        data: ImageData,
        split: str,
        crop_padding: int = 0,
        flip: float = 0.0,
        seed: int = 1,
        shuffles: bool = False,
    ) -> None:
        self.data = data
        self.images, self.labels = data.load(split)
        self.crop_padding, self.flip, self.seed, self.shuffles = crop_padding, flip, seed, shuffles
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Draw the places and the flips of all images of an epoch."""
        draws = np.random.default_rng([self.seed, epoch])
        self._places = draws.integers(0, 2 * self.crop_padding + 1, (len(self), 2))
        self._flips = draws.random(len(self)) < self.flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index

    def num_tokens(self, index: int) -> int:
        return 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return np.ones(len(indices), dtype=np.int64)

    def size(self, index: int) -> int:
        return 1

    def ordered_indices(self) -> np.ndarray:
        """Return the order of an epoch; fairseq has set numpy's seed (fairseq/tasks/fairseq_task.py:239)."""
        return np.random.permutation(len(self)) if self.shuffles else np.arange(len(self))

    def collater(self, samples: Sequence[int]) -> dict[str, Any]:
        """Return a mini-batch; pixels are normalised after the padding, which is black."""
        if not samples:
            return {}
        indices = np.asarray(samples)
        return {
            "id": torch.from_numpy(indices),
            "nsentences": len(indices),
            "ntokens": len(indices),
            "net_input": {"images": normalised(self._augmented(indices), self.data)},
            "target": torch.from_numpy(self.labels[indices]),
        }

    def _augmented(self, indices: np.ndarray) -> np.ndarray:
        images = self.images[indices]  # a copy
        count, height, width, _ = images.shape
        if self.crop_padding:
            pad = (self.crop_padding, self.crop_padding)
            padded = np.pad(images, ((0, 0), pad, pad, (0, 0)))
            top, left = self._places[indices].T[:, :, None]
            rows, columns = top + np.arange(height), left + np.arange(width)
            images = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        flips = self._flips[indices]
        images[flips] = images[flips, :, ::-1]
        return images
