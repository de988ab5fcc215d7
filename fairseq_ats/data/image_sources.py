"""Make a folder of prepared images from scikit-learn's digits, from CIFAR-10's archive, or from a folder of files."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ats.data.image_folder import DESCRIPTION, KINDS, SPLITS, ImageData, file_name
from fairseq_ats.files import check_ours, made_once, sha256_of

DIGITS = "digits"
SUFFIXES = (".png", ".jpg", ".jpeg")

# The binary version of https://www.cs.toronto.edu/~kriz/cifar.html (the Python version is pickles, which can run code).
CIFAR10_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_RECORDS = 10_000  # in each member: a label and 32 × 32 pixels of red, then of green, then of blue

_SEED = 1  # of the choice of the images that are held out

Labelled = tuple[np.ndarray, np.ndarray]  # uint8 (number, height, width, channels), and int64 (number,)


@dataclass
class Source:
    """Images before some are held out for validation, the default augmentation, and how many to hold out by default."""

    splits: dict[str, Labelled]
    classes: tuple[str, ...]
    crop_padding: int
    flip: float
    valid: int


def prepare(source: str, output: Path, valid: int | None, size: int | None, say: Callable[[str], None]) -> None:
    """Write ``output`` whole or not at all; the same source gives the same bytes.

    Args:
        source: ``digits``, CIFAR-10's binary archive, or a folder with ``train/CLASS/*.png`` (or jpg), ``test/`` and,
            if there is one, ``valid/``.
        valid: how many training images to hold out for validation, the same number of each class; None: the default.
        size: scale the shorter side of each file of a folder to this size, and cut out the centre.

    Raises:
        ValueError: the source is missing, damaged or not as described; or ``output`` holds other files.
    """
    check_ours(output, DESCRIPTION)
    path = Path(source)
    if size is not None and not path.is_dir():
        raise ValueError(f"--size is {size}, which is for a folder of images; SOURCE is {source}")
    if source == DIGITS:
        found = _digits()
    elif path.is_dir():
        found = _folder(path, size)
    elif path.is_file():
        found = cifar10(path)
    else:
        raise ValueError(f"SOURCE is {source}; allowed: {DIGITS}, a folder, or the file {CIFAR10_ADDRESS}")
    if "valid" not in found.splits:
        found.splits |= _held_out(found.splits["train"], valid or found.valid, len(found.classes), "valid")
    elif valid:
        raise ValueError(f"--valid is {valid}, and {source} has a folder valid; leave it out")
    mean, std = _moments(found.splits["train"][0])
    description: dict[str, Any] = {"classes": found.classes, "shape": found.splits["train"][0].shape[1:], "mean": mean}
    description |= {"std": std, "crop_padding": found.crop_padding, "flip": found.flip, "sums": {}}
    with made_once(output, DESCRIPTION, description) as folder:
        for split in SPLITS:
            for kind, array in zip(KINDS, found.splits[split], strict=True):
                name = file_name(split, kind)
                np.save(folder / name, np.ascontiguousarray(array), allow_pickle=False)
                description["sums"][name] = sha256_of(folder / name)
    counts = ", ".join(f"{split} {len(found.splits[split][1]):,}" for split in SPLITS)
    say(f"wrote {output}: {counts} images of {len(found.classes)} classes")


def _moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, where white is 1, from exact counts of each value."""
    counts = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    if not (std > 1e-6).all():
        raise ValueError("all training images have one value in a colour channel")
    return mean.tolist(), std.tolist()


def _held_out(data: Labelled, count: int, classes: int, name: str) -> dict[str, Labelled]:
    """Return the data without ``count`` images, as "train", and those, under ``name``.

    Raises:
        ValueError: not every class can give the same number of images and keep some.
    """
    images, labels = data
    smallest = int(np.bincount(labels, minlength=classes).min())
    if count % classes or count // classes >= smallest:
        raise ValueError(
            f"--{name} is {count}; allowed: a multiple of the {classes} classes, with fewer of each than the "
            f"{smallest:,} images of the smallest class"
        )
    draws = np.random.default_rng(_SEED)
    out = np.zeros(len(labels), dtype=bool)
    for number in range(classes):
        out[draws.choice(np.flatnonzero(labels == number), count // classes, replace=False)] = True
    return {"train": (images[~out], labels[~out]), name: (images[out], labels[out])}


def _digits() -> Source:
    """scikit-learn's 1,797 images of 8 × 8 pixels with 17 shades of grey; a tenth is the test set."""
    from sklearn.datasets import load_digits  # takes a second

    found = load_digits()
    images = (found.images * 255 / 16).round().astype(np.uint8)[..., None]
    splits = _held_out((images, found.target.astype(np.int64)), 180, 10, "test")
    # No flips: a mirrored digit is another digit, or none.
    return Source(splits, tuple(map(str, range(10))), crop_padding=1, flip=0.0, valid=180)


def cifar10(path: Path, sha256: str = CIFAR10_SHA256, records: int = CIFAR10_RECORDS) -> Source:
    """Read CIFAR-10's binary archive; nothing is unpacked to disk.

    Raises:
        ValueError: the file has another checksum, or its members are not the archive's.
    """
    if sha256_of(path) != sha256:
        raise ValueError(f"{path} is damaged or another file than {CIFAR10_ADDRESS}: its SHA-256 is not {sha256}")
    members = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}
    splits = {}
    with tarfile.open(path) as archive:
        for split, names in members.items():
            data = np.concatenate([_records(archive, f"cifar-10-batches-bin/{name}", records) for name in names])
            labels, pixels = data[:, 0].astype(np.int64), data[:, 1:].reshape(-1, 3, 32, 32)
            if labels.max() >= len(CIFAR10_CLASSES):
                raise ValueError(f"{path} has the label {labels.max()}; allowed: 0 to 9")
            splits[split] = (pixels.transpose(0, 2, 3, 1), labels)
    # 45,000 images remain for training, as the paper's count of FLOPs says (fairseq_ats/cost/images.py).
    return Source(splits, CIFAR10_CLASSES, crop_padding=4, flip=0.5, valid=records // 2)


def _records(archive: tarfile.TarFile, name: str, records: int) -> np.ndarray:
    expected = records * (1 + 3 * 32 * 32)
    member = next((member for member in archive if member.name == name and member.isfile()), None)
    if member is None or member.size != expected:
        found = "is missing" if member is None else f"has {member.size:,} bytes"
        raise ValueError(f"{name} {found} in {archive.name!s}; CIFAR-10's has {expected:,} bytes")
    return np.frombuffer(archive.extractfile(member).read(), np.uint8).reshape(records, -1)  # type: ignore[union-attr]


def _folder(path: Path, size: int | None) -> Source:
    """Read SPLIT/CLASS/*.png; classes and images are in the order of their names."""
    classes = tuple(entry.name for entry in _entries(path / "train"))
    if len(classes) < 2:
        raise ValueError(f"{path / 'train'} has {len(classes)} class; allowed: 2 or more")
    splits: dict[str, Labelled] = {}
    shape: tuple[int, ...] = ()
    for split in [split for split in SPLITS if split != "valid" or (path / split).exists()]:
        unknown = {entry.name for entry in _entries(path / split)} - set(classes)
        if unknown:
            raise ValueError(f"{path / split} has {min(unknown)}, which is no class of {path / 'train'}")
        images, labels = [], []
        for number, name in enumerate(classes):
            files = _entries(path / split / name)
            if not files:
                raise ValueError(f"{path / split / name} has no image")
            for file in files:
                image = _pixels(file, None if size is None else (size, size))
                shape = shape or image.shape
                if image.shape != shape:
                    sizes = " and ".join(f"{width} × {height}" for height, width, _ in (shape, image.shape))
                    raise ValueError(
                        f"{file} has another size than the images before it: {sizes}; --size makes them one"
                    )
                images.append(image)
                labels.append(number)
        splits[split] = (np.stack(images), np.array(labels))
    smallest = int(np.bincount(splits["train"][1]).min())
    # A padding of an eighth is CIFAR-10's 4 of 32 pixels.
    return Source(splits, classes, max(1, min(shape[:2]) // 8), 0.5, valid=max(1, smallest // 10) * len(classes))


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; allowed: train/CLASS/*.png (or jpg), test/, and perhaps valid/")
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def read_image(file: Path, data: ImageData) -> np.ndarray:
    """Return an image as a network that was trained on ``data`` takes it: uint8 (height, width, channels).

    Raises:
        ValueError: the file is no image.
    """
    height, width, channels = data.shape
    return _pixels(file, (width, height), "L" if channels == 1 else "RGB").reshape(data.shape)


def _pixels(file: Path, size: tuple[int, int] | None, mode: str = "RGB") -> np.ndarray:
    """Return an image as uint8 (height, width, channels); with a size scaled to cover it, and its centre cut out.

    Raises:
        ValueError: the file is no image, or Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError(f"image files need Pillow ({error}); pip install 'fairseq-ats[images]' installs it") from error
    if file.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file} is no image; allowed: {', '.join(SUFFIXES)}")
    try:
        with Image.open(file) as opened:
            image = opened.convert(mode)
            return np.asarray(image if size is None or image.size == size else ImageOps.fit(image, size))
    except Exception as error:  # damaged bytes can make a decoder raise any exception
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
