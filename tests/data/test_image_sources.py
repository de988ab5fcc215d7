"""Preparing images: digits, CIFAR-10's archive, folders; and what is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairseq_ats.data import image_sources
from fairseq_ats.data.image_folder import DESCRIPTION, SPLITS, ImageData
from fairseq_ats.data.image_sources import cifar10, prepare


def run(source: object, output: Path, valid: int | None = None, size: int | None = None) -> ImageData:
    prepare(str(source), output, valid, size, say=lambda text: None)
    return ImageData.read(output)


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two classes: red images are cats, blue ones are dogs; the green part of a training image is its number."""
    source = tmp_path / "files"
    for split, count in (("train", 4), ("test", 2)):
        for number in range(count):
            picture(source / split / "cat" / f"{number}.png", (200, number, 0))
            picture(source / split / "dog" / f"{number}.PNG", (0, number, 100))
    return source


def archive(path: Path, change: Callable[[dict[str, bytes]], None] = lambda members: None) -> str:
    """An archive like CIFAR-10's with 10 records a member, two of each of five classes; return its SHA-256."""
    members = {}
    for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 3072), dtype=np.uint8)
        labels = np.arange(10, dtype=np.uint8)[:, None]
        members[f"cifar-10-batches-bin/{name}"] = np.hstack([labels, pixels]).tobytes()
    change(members)
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digits(tmp_path: Path) -> None:
    data = run("digits", tmp_path / "one")
    assert (data.shape, data.classes, data.crop_padding, data.flip) == ((8, 8, 1), tuple("0123456789"), 1, 0.0)
    loaded = {split: data.load(split) for split in SPLITS}
    assert {split: len(labels) for split, (_, labels) in loaded.items()} == {"train": 1437, "valid": 180, "test": 180}
    assert set(np.bincount(loaded["valid"][1])) == set(np.bincount(loaded["test"][1])) == {18}
    pixels = loaded["train"][0].astype(np.float64) / 255
    np.testing.assert_allclose([data.mean[0], data.std[0]], [pixels.mean(), pixels.std()], rtol=1e-12)
    together = np.concatenate([images for images, _ in loaded.values()])
    assert len(np.unique(together, axis=0)) > 1700, "no image is in two splits"

    run("digits", tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), "the same source, the same bytes"


def test_folder_of_files(files: Path, tmp_path: Path) -> None:
    (files / "train" / ".hidden").write_text("is ignored")
    data = run(files, tmp_path / "data")
    assert (data.classes, data.shape, data.crop_padding, data.flip) == (("cat", "dog"), (8, 8, 3), 1, 0.5)
    images, labels = data.load("test")
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[:, 0, 0].tolist() == [[200, 0, 0], [200, 1, 0], [0, 0, 100], [0, 1, 100]]
    assert sorted(data.load("valid")[1]) == [0, 1], "one of each class is held out"
    assert len(data.load("train")[1]) == 6


def test_folder_with_its_own_validation_images_and_a_size(files: Path, tmp_path: Path) -> None:
    picture(files / "valid" / "cat" / "wide.jpg", (200, 7, 0), (30, 10))
    picture(files / "valid" / "dog" / "0.jpeg", (0, 7, 100), (10, 30))
    data = run(files, tmp_path / "data", size=9)
    assert data.shape == (9, 9, 3)
    assert [len(data.load(split)[1]) for split in SPLITS] == [8, 2, 4]
    with pytest.raises(ValueError, match=r"--valid is 2, and .* has a folder valid"):
        run(files, tmp_path / "other", valid=2, size=9)


def test_cifar10(tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    source = cifar10(path, archive(path), records=10)
    images, labels = source.splits["train"]
    assert (images.shape, labels.tolist()) == ((50, 32, 32, 3), [*range(10)] * 5)
    pixels = np.random.default_rng(1).integers(0, 256, (10, 3072), dtype=np.uint8)[3]  # of the second member
    assert images[13, 5, 7].tolist() == [pixels[32 * 5 + 7], pixels[1024 + 32 * 5 + 7], pixels[2048 + 32 * 5 + 7]]
    assert (source.valid, source.crop_padding, source.flip) == (5, 4, 0.5)
    assert (image_sources.CIFAR10_RECORDS // 2, len(source.splits["test"][1])) == (5000, 10)


def drop(members: dict[str, bytes]) -> None:
    del members["cifar-10-batches-bin/data_batch_4.bin"]


def shorten(members: dict[str, bytes]) -> None:
    members["cifar-10-batches-bin/test_batch.bin"] = members["cifar-10-batches-bin/test_batch.bin"][:-1]


def mislabel(members: dict[str, bytes]) -> None:
    name = "cifar-10-batches-bin/data_batch_1.bin"
    members[name] = b"\x0a" + members[name][1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "data_batch_4.bin is missing in .*; CIFAR-10's has 30,730 bytes"),
        (shorten, "test_batch.bin has 30,729 bytes in "),
        (mislabel, "has the label 10; allowed: 0 to 9"),
    ],
)
def test_archives_with_other_members(change: Callable[[dict[str, bytes]], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    with pytest.raises(ValueError, match=message):
        cifar10(path, archive(path, change), records=10)


def test_sources_that_are_refused(files: Path, tmp_path: Path) -> None:
    """Each with a sentence, and with nothing left behind."""

    def refuses(message: str, source: object = files, **options: int) -> None:
        with pytest.raises(ValueError, match=message):
            run(source, tmp_path / "data", **options)
        assert not (tmp_path / "data").exists()
        assert not list(tmp_path.glob(".*"))

    archive(tmp_path / "other.tar.gz")
    refuses("is damaged or another file than https://www.cs.toronto.edu", tmp_path / "other.tar.gz")
    refuses("SOURCE is mnist; allowed: digits, a folder, or the file https://", "mnist")
    refuses("--size is 8, which is for a folder of images; SOURCE is digits", "digits", size=8)
    refuses("--valid is 1600; allowed: a multiple of the 10 classes, with fewer of each", "digits", valid=1600)
    refuses("--valid is 3; allowed: a multiple of the 2 classes", valid=3)
    refuses("--valid is 8; .* fewer of each than the 4 images", valid=8)
    (tmp_path / "nothing").mkdir()
    refuses("train is not a folder; allowed: train/CLASS", tmp_path / "nothing")
    picture(files / "test" / "dog" / "2.png", (1, 1, 1), (9, 8))
    refuses("2.png has another size than the images before it: 8 × 8 and 9 × 8; --size makes them one")
    (files / "test" / "dog" / "2.png").write_bytes(b"no picture")
    refuses("2.png cannot be read as an image")
    (files / "test" / "dog" / "2.png").rename(files / "test" / "dog" / "2.gif")
    refuses("2.gif is no image; allowed: .png, .jpg, .jpeg")
    (files / "test" / "dog" / "2.gif").unlink()
    picture(files / "test" / "emu" / "0.png", (1, 1, 1))
    refuses("test has emu, which is no class of .*train")
    (files / "test" / "emu" / "0.png").unlink()
    (files / "test" / "emu").rmdir()
    (files / "train" / "emu").mkdir()
    refuses("emu has no image")
    for file in (files / "train" / "dog").iterdir():
        file.unlink()
    for name in ("emu", "dog"):
        (files / "train" / name).rmdir()
    refuses("train has 1 class; allowed: 2 or more")


def test_images_of_one_colour(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            for number in (0, 1):
                picture(tmp_path / "files" / split / name / f"{number}.png", (9, 9, 9))
    with pytest.raises(ValueError, match="one value in a colour channel"):
        run(tmp_path / "files", tmp_path / "data")


def test_output_that_is_not_ours_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to a friend").write_text("keep me")
    with pytest.raises(ValueError, match="holds files that this command did not write"):
        run("digits", tmp_path / "letters")

    data = run("digits", tmp_path / "data")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run("digits", tmp_path / "data")
    assert ImageData.read(tmp_path / "data") == data, "the old data are there, whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "letters"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "valid.images.npy").unlink(), "valid.images.npy is missing"),
        (lambda d: flip_bit(d / "valid.images.npy"), "valid.images.npy is damaged: its SHA-256"),
        (lambda d: flip_bit(d / "valid.labels.npy"), "valid.labels.npy is damaged"),
        (
            lambda d: replace(d, "valid.images.npy", np.zeros((180, 8, 8, 1))),
            "holds float64 of .180, 8, 8, 1. with int64",
        ),
        (
            lambda d: replace(d, "valid.images.npy", np.zeros((9, 8, 8, 1), np.uint8)),
            "holds uint8 of .9, 8, 8, 1. with",
        ),
        (lambda d: replace(d, "valid.images.npy", np.zeros((180, 8, 8, 3), np.uint8)), "by images.json an image is"),
        (lambda d: replace(d, "valid.labels.npy", np.full(180, 10)), "the labels of valid are not of the 10 classes"),
        (
            lambda d: replace(d, "valid.labels.npy", np.array([print] * 180, object)),
            "valid.labels.npy cannot be read: .* Python objects",
        ),
    ],
)
def test_damaged_files(change: Callable[[Path], None], message: str, digits: Path, tmp_path: Path) -> None:
    for file in digits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        ImageData.read(tmp_path).load("valid")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [8, 8]},
        {"mean": []},
        {"std": [0.0]},
        {"classes": ["a"]},
        {"shape": [8, 0, 1]},
        {"mean": ["x"]},
        {"a": 1},
    ],
    ids=str,
)
def test_descriptions_that_cannot_be(change: dict[str, object], digits: Path, tmp_path: Path) -> None:
    saved = json.loads((digits / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(saved | change))
    with pytest.raises(ValueError, match=r"images\.json: its description of images cannot be read"):
        ImageData.read(tmp_path)
    (tmp_path / DESCRIPTION).write_text("[1, 2")
    with pytest.raises(ValueError, match="cannot be read"):
        ImageData.read(tmp_path)
    with pytest.raises(ValueError, match=r"has no images\.json; allowed: a folder that `fairseq-ats images` made"):
        ImageData.read(tmp_path / "nowhere")


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replace(folder: Path, name: str, array: np.ndarray) -> None:
    """Put other content into a file, with its right sum."""
    np.save(folder / name, array, allow_pickle=True)
    saved = json.loads((folder / DESCRIPTION).read_text())
    saved["sums"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(saved))
