"""Read a folder of prepared images: ``images.json``, which says what they are, and arrays that cannot run code.

``SPLIT.images.npy`` is uint8 (number, height, width, channels), ``SPLIT.labels.npy`` int64 (number,).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ats.files import sha256_of

DESCRIPTION = "images.json"
SPLITS = ("train", "valid", "test")
KINDS = ("images", "labels")

# What a trained network depends on, and a checkpoint keeps.
_OF_NETWORK = ("classes", "shape", "mean", "std")


def file_name(split: str, kind: str) -> str:
    return f"{split}.{kind}.npy"


@dataclass(frozen=True)
class ImageData:
    """What images are, and how pixels become numbers.

    Args:
        classes: their names, by number.
        shape: height, width and channels of every image.
        mean, std: of the training images, by channel, where black is 0 and white is 1.
        crop_padding, flip: default augmentation; see :class:`~fairseq_ats.data.image_dataset.ImageDataset`.
        sums: SHA-256 of each file, by name.
        folder: where the files are; None if the data are a checkpoint's.

    Raises:
        ValueError: the values do not go together.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: float = 0.0
    sums: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name, kind in zip(_OF_NETWORK, (str, int, float, float), strict=True):
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        if len(self.classes) < 2 or len(self.shape) != 3 or not len(self.mean) == len(self.std) == self.shape[2]:
            raise ValueError("the classes, the shape and the channels do not go together")
        if min(self.shape) < 1 or min(self.std) <= 0 or not np.isfinite([*self.mean, *self.std]).all():
            raise ValueError("a size, mean or deviation is out of range")

    @classmethod
    def read(cls, folder: Path) -> ImageData:
        """Read the description of a folder.

        Raises:
            ValueError: the folder has no description, or it cannot be read.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise ValueError(f"{folder} has no {DESCRIPTION}; allowed: a folder that `fairseq-ats images` made")
        return cls.of(path, lambda: json.loads(path.read_text("utf-8")) | {"folder": folder})

    @classmethod
    def of(cls, source: object, read: Any) -> ImageData:
        """Return the data that ``read()`` describes; name ``source`` in an error.

        Raises:
            ValueError: the description cannot be read.
        """
        try:
            return cls(**read())
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{source}: its description of images cannot be read: {error}") from error

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in plain values."""
        return {name: list(getattr(self, name)) for name in _OF_NETWORK}

    def load(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of a split, after a check of every byte; both are mapped from disk.

        Raises:
            ValueError: there is no such split, or a file is missing, damaged, or not what the description says.
        """
        images, labels = (self._load(file_name(split, kind)) for kind in KINDS)
        if images.dtype != np.uint8 or images.shape != (len(labels), *self.shape) or labels.dtype != np.int64:
            found = f"{images.dtype} of {images.shape} with {labels.dtype} of {labels.shape}"
            raise ValueError(f"{self.folder} holds {found} for {split}; by {DESCRIPTION} an image is {self.shape}")
        if not len(labels) or labels.min() < 0 or labels.max() >= len(self.classes):
            raise ValueError(f"{self.folder}: the labels of {split} are not of the {len(self.classes)} classes")
        return images, labels

    def _load(self, name: str) -> np.ndarray:
        path = Path(self.folder or "") / name
        if not path.is_file() or name not in self.sums:
            raise ValueError(f"{path} is missing; allowed: {', '.join(SPLITS)}")
        if sha256_of(path) != self.sums[name]:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {DESCRIPTION}")
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
