"""Augmentation and mini-batches of images, against a reference that moves each pixel by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_ats.data.image_dataset import ImageDataset, normalised
from fairseq_ats.data.image_folder import ImageData

SEED, PADDING = 11, 2


def dataset(digits: Path, epoch: int = 1, **options: object) -> ImageDataset:
    made = ImageDataset(
        ImageData.read(digits), "train", **({"crop_padding": PADDING, "flip": 0.5, "seed": SEED} | options)
    )
    made.set_epoch(epoch)
    return made


def test_every_pixel_by_hand(digits: Path) -> None:
    """Crop, flip, black padding, then normalisation; the draws are those of seed and epoch."""
    images = dataset(digits, epoch=3)
    draws = np.random.default_rng([SEED, 3])
    places = draws.integers(0, 2 * PADDING + 1, (len(images), 2))
    flips = draws.random(len(images)) < 0.5
    chosen = [0, 5, 700, 1436]
    assert len({*flips[chosen]}) == 2
    batch = images.collater(chosen)
    data = images.data
    for found, index in zip(batch["net_input"]["images"], chosen, strict=True):
        for row in range(8):
            for column in range(8):
                y = row + places[index][0] - PADDING
                x = (7 - column if flips[index] else column) + places[index][1] - PADDING
                inside = 0 <= y < 8 and 0 <= x < 8
                pixel = int(images.images[index, y, x, 0]) if inside else 0
                expected = (pixel / 255 - data.mean[0]) / data.std[0]
                assert abs(float(found[0, row, column]) - expected) < 1e-6
    assert batch["target"].tolist() == [int(images.labels[index]) for index in chosen]
    assert (batch["nsentences"], batch["ntokens"], batch["id"].tolist()) == (4, 4, chosen)


@settings(max_examples=15)
@given(st.permutations(range(24)), st.integers(1, 24))
def test_an_image_depends_on_seed_epoch_and_number_alone(digits: Path, order: list[int], size: int) -> None:
    """In any order, in batches of any size, as in one batch."""
    images = dataset(digits)
    together = images.collater(range(24))["net_input"]["images"]
    for start in range(0, 24, size):
        batch = images.collater(order[start : start + size])
        assert torch.equal(batch["net_input"]["images"], together[batch["id"]])


def test_epochs_and_seeds_differ(digits: Path) -> None:
    first, again, second, other = (
        dataset(digits, epoch, seed=seed).collater(range(64))["net_input"]["images"]
        for epoch, seed in ((1, SEED), (1, SEED), (2, SEED), (1, SEED + 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_loading_processes_make_the_same_batches(digits: Path) -> None:
    images = dataset(digits, epoch=2)
    batches = [list(range(0, 7)), list(range(7, 12))]
    loader = torch.utils.data.DataLoader(images, batch_sampler=batches, collate_fn=images.collater, num_workers=2)
    for loaded, batch in zip(loader, batches, strict=True):
        assert torch.equal(loaded["net_input"]["images"], images.collater(batch)["net_input"]["images"])


def test_without_augmentation_images_are_as_they_are(digits: Path) -> None:
    images = dataset(digits, crop_padding=0, flip=0.0)
    batch = images.collater([3, 9])["net_input"]["images"]
    expected = (images.images[[3, 9]].astype(np.float64) / 255 - images.data.mean) / images.data.std
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1), expected, atol=1e-6)
    assert images.ordered_indices().tolist() == list(range(len(images)))
    assert images.collater([]) == {}


def test_memory_is_in_the_order_of_channels_last() -> None:
    colours = np.zeros((5, 8, 8, 3), np.uint8)
    data = ImageData(("a", "b"), (8, 8, 3), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    x = normalised(colours, data)
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(x[0, :, 0, 0], [-0.1 / 0.5, -0.2 / 0.6, -0.3 / 0.7], rtol=1e-6)
