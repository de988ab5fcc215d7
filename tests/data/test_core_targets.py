"""--core-data: core updates learn other targets, all else stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, make_dataset

from fairseq_ats.checkpoints.keys import RUN_KEY
from fairseq_ats.data.core_targets import CoreTargets
from tests.support.checkpoints import differences, load
from tests.support.command_line import train

Build = Callable[..., SimpleNamespace]

PAIR = "train.en-de"
ALTERNATE = ("--alternate", "--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25")


@pytest.fixture(scope="module")
def core_data(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus with targets of other lengths: each without its first words, or doubled."""
    folder = tmp_path_factory.mktemp("core") / "data"
    shutil.copytree(toy_data, folder)
    targets = make_dataset(str(toy_data / f"{PAIR}.de"), "mmap")
    builder = MMapIndexedDatasetBuilder(str(folder / f"{PAIR}.de.bin"))
    for number in range(len(targets)):
        words, end = targets[number][:-1], targets[number][-1:]
        builder.add_item(torch.cat([words[1:] if number % 2 and len(words) > 1 else words.repeat(2), end]))
    builder.finalize(str(folder / f"{PAIR}.de.idx"))
    return folder


def batch_of(built: SimpleNamespace) -> dict[str, Any]:
    built.task.load_dataset("train")
    dataset = built.task.dataset("train")
    return dataset.collater([dataset[i] for i in (3, 8, 11, 20)])


def gradients(built: SimpleNamespace, batch: dict[str, Any], update: int) -> tuple[dict[str, Any], Any, Any]:
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    adam.zero_grad()
    torch.manual_seed(5)
    _, size, logged = built.task.train_step(batch, built.model, built.criterion, adam, update)
    return {n: p.grad.clone() for n, p in built.model.named_parameters() if p.grad is not None}, size, logged


def test_each_network_learns_its_own_targets(build: Build, core_data: Path) -> None:
    both = build(*ALTERNATE, "--core-data", str(core_data))
    batch = batch_of(both)
    for update, data in ((0, None), (1, core_data)):
        alone = build(*ALTERNATE)
        if data is not None:
            alone.task.cfg.data = str(data)
        found, expected = gradients(both, batch, update), gradients(alone, batch_of(alone), update)
        assert found[1] == expected[1], "the sample size is that of the targets that were learnt"
        assert found[0].keys() == expected[0].keys()
        for name, gradient in expected[0].items():
            torch.testing.assert_close(found[0][name], gradient, rtol=0, atol=0)


def test_both_targets_are_read_ahead() -> None:
    """--dataset-impl cached reads nothing else."""
    pairs = [SimpleNamespace(src_sizes=[1], tgt_sizes=[1], prefetched=[]) for _ in range(2)]
    for one in pairs:
        one.prefetch = one.prefetched.append
    CoreTargets(*pairs).prefetch([0])
    assert [one.prefetched for one in pairs] == [[[0]], [[0]]]


def test_batches_hold_the_longer_target(build: Build, core_data: Path) -> None:
    built = build(*ALTERNATE, "--core-data", str(core_data))
    built.task.load_dataset("train")
    dataset = built.task.dataset("train")
    batches = built.task.get_batch_iterator(dataset, max_tokens=60).next_epoch_itr(shuffle=False)
    seen = []
    for batch in batches:
        seen += batch["id"].tolist()
        for tokens in (batch["target"], batch["core_targets"]["target"], batch["net_input"]["src_tokens"]):
            assert tokens.numel() <= 60
        assert batch["core_targets"]["prev_output_tokens"].shape == batch["core_targets"]["target"].shape
    assert sorted(seen) == list(range(len(dataset)))
    built.task.load_dataset("valid")
    assert "core_targets" not in built.task.dataset("valid").collater([built.task.dataset("valid")[0]])


def test_a_resumed_run_keeps_its_core_data(toy_data: Path, core_data: Path, tmp_path: Path) -> None:
    options = [*ALTERNATE, "--disable-validation", "--save-interval-updates", "3"]
    train(toy_data, tmp_path / "whole", 6, *options, "--core-data", str(core_data))
    train(toy_data, tmp_path / "parts", 3, *options, "--core-data", str(core_data))
    train(toy_data, tmp_path / "parts", 6, "--disable-validation", "--save-interval-updates", "3")
    whole, parts = (load(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "parts"))
    assert whole["task_state"][RUN_KEY]["core_data"] == str(core_data)
    assert differences(whole, parts) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scheme", "slimmable"), "which needs --scheme alternate; --scheme is slimmable"),
        (("--alternate", "--distillation-weight", "0.5"), "and --distillation-weight is given"),
        (("--alternate", "--criteria-interval", "5"), "and --criteria-interval is given"),
    ],
)
def test_what_does_not_go_with_core_data(build: Build, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=f"--core-data is here.*{said}"):
        build(*options, "--core-data", "here")


def other_source(folder: Path) -> None:
    for end in ("idx", "bin"):
        shutil.copy(folder / f"valid.en-de.en.{end}", folder / f"{PAIR}.en.{end}")
        shutil.copy(folder / f"valid.en-de.de.{end}", folder / f"{PAIR}.de.{end}")


def other_dictionary(folder: Path) -> None:
    path = folder / "dict.de.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda folder: (folder / "dict.en.txt").unlink(), r"has no dict\.en\.txt"),
        (lambda folder: (folder / f"{PAIR}.en.idx").unlink(), r"has nothing of train, and .* has train\.en-de"),
        (lambda folder: (folder / f"{PAIR}.de.bin").write_bytes(b"1"), "binarise the data again"),
        (other_source, r"train\.en-de\.en\.idx is not that of"),
        (other_dictionary, r"dict\.de\.txt is not that of"),
    ],
)
def test_core_data_that_do_not_fit(
    build: Build, core_data: Path, tmp_path: Path, break_: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(core_data, folder)
    break_(folder)
    built = build(*ALTERNATE, "--core-data", str(folder))
    with pytest.raises(ValueError, match=said):
        built.task.load_dataset("train")
