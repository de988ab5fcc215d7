"""Trainings on digits in real processes: killed and resumed, by two workers, validated, at a lower level."""

from __future__ import annotations

import json
import logging
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairseq_ats.architectures.resnet import ResNet10, ResNetConfig
from fairseq_ats.cli import average, classify, convert
from fairseq_ats.data.image_dataset import normalised
from fairseq_ats.data.image_folder import ImageData
from fairseq_ats.inference.classifier import NETWORK_FILES
from scripts.tables import images as tables
from tests.support import instrumented
from tests.support.checkpoints import differences, load
from tests.support.command_line import run
from tests.support.disk import no_room
from tests.support.images import TASK, train_command

# An epoch has six updates; saves and validates after every third. Crops by default.
OPTIONS = ["--alternate", "--batch-size", "240", "--flip", "0.25", "--save-interval-updates", "3"]
OPTIONS += ["--keep-interval-updates", "1"]
UPDATES = 8


def command(data: Path, folder: Path, *extra: str) -> list[str]:
    return train_command(data, folder, UPDATES, *OPTIONS, *extra)


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits" / "alternate" / "seed7"  # as scripts/reproduce_table.sh has it
    folder.mkdir(parents=True)
    process = instrumented.start(command(digits, folder, "--log-file", str(folder / "train.log")), folder / "log")
    assert instrumented.finish(process) == [0], (folder / "log").read_text()[-3000:]
    return folder


def test_killed_and_resumed(uninterrupted: Path, digits: Path, tmp_path: Path) -> None:
    """Weights, momentum, running statistics, metrics and files are those of a run that was never killed."""
    for moment in (
        partial(instrumented.kill_in_update, 3),  # a core update, after the first save
        partial(instrumented.kill_in_copy, 2),
        partial(instrumented.kill_in_update, 6),  # in the second epoch
    ):
        process = instrumented.start(command(digits, tmp_path), tmp_path / "log", moment)
        assert instrumented.finish(process) == [-signal.SIGKILL], (tmp_path / "log").read_text()[-2000:]
    process = instrumented.start(command(digits, tmp_path), tmp_path / "log")
    assert instrumented.finish(process) == [0], (tmp_path / "log").read_text()[-2000:]
    names = {path.name for path in uninterrupted.glob("*.pt*")}
    assert {"checkpoint_best.pt", "checkpoint_best_core.pt", "checkpoint_last.pt"} <= names
    assert {path.name for path in tmp_path.glob("*.pt*")} == names
    for name in names:
        found = differences(load(tmp_path / name), load(uninterrupted / name))
        assert not found, (name, found)


def test_two_workers(digits: Path, tmp_path: Path) -> None:
    """Weights in step, the mask held under legacy_ddp, and the averaged statistics of both in a validation."""
    options = ["--batch-size", "360", "--max-update", "3", "--ddp-backend", "legacy_ddp", "--no-save"]
    changes = [[partial(instrumented.record_models, tmp_path / f"records{rank}")] for rank in (0, 1)]
    workers = instrumented.start_workers(command(digits, tmp_path / "run", *options), tmp_path, *changes)
    codes = instrumented.finish(*workers)
    assert codes == [0, 0], "".join((tmp_path / f"{rank}.log").read_text()[-2000:] for rank in (0, 1))
    one, other = (instrumented.recorded(tmp_path / f"records{rank}") for rank in (0, 1))
    assert [what for what, _ in one] == ["update", "update", "validation", "update", "validation"]
    for (what, mine), (_, yours) in zip(one, other, strict=True):
        for name, value in mine.items():
            own_share = what == "update" and "running" in name
            assert own_share or torch.equal(value, yours[name]), (what, name)
    statistics = "bn1.core.running_mean"
    after_core_update, in_validation = one[1][1][statistics], one[2][1][statistics]
    assert not torch.equal(after_core_update, other[1][1][statistics]), "each worker has seen other images"
    torch.testing.assert_close(in_validation, (after_core_update + other[1][1][statistics]) / 2)
    before, after = one[0][1], one[1][1]
    for name in before:
        if "extension" in name:
            assert torch.equal(before[name], after[name]), f"{name} moved in a core update"


def test_validation_gives_what_the_training_logged(uninterrupted: Path, digits: Path) -> None:
    """And the core alone, out of the checkpoint of both, what it gave there."""
    logged = re.findall(r"valid on 'valid' subset \|.* accuracy ([\d.]+) .*core_accuracy ([\d.]+)", log(uninterrupted))[
        -1
    ]
    last = uninterrupted / "checkpoint_last.pt"
    common = [
        "fairseq-validate",
        str(digits),
        "--user-dir",
        "fairseq_ats",
        "--task",
        TASK,
        "--path",
        str(last),
        "--cpu",
    ]
    common += ["--batch-size", "50", "--valid-subset", "valid", "--num-workers", "0", "--data-buffer-size", "0"]
    both = run(common)
    assert re.findall(r" accuracy ([\d.]+) .*core_accuracy ([\d.]+)", both)[-1] == logged
    alone = run([*common, "--max-level", "1"])
    assert re.findall(r" accuracy ([\d.]+)", alone)[-1] == logged[1]
    assert "core_accuracy" not in alone


@pytest.fixture(scope="module")
def pictures(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images as files; the last is twice as large."""
    images, _ = ImageData.read(digits).load("test")
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / f"{number}.png" for number in range(5)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image[..., 0]).save(file)
    Image.fromarray(images[4, ..., 0]).resize((16, 16)).save(files[4])
    return files


def classified(output: str) -> list[tuple[str, float]]:
    """Class and probability of each file."""
    lines = [line.split("\t") for line in output.splitlines() if line.count("\t") == 2]
    return [(name, float(probability)) for _, name, probability in lines]


@pytest.mark.parametrize(("network", "formats"), [("core", ("torch", "onnx")), ("super", ("torch",))])
def test_converted_networks_classify_as_their_source(
    uninterrupted: Path,
    digits: Path,
    pictures: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    network: str,
    formats: tuple[str, ...],
) -> None:
    """Each format, and a stock network of the level's width with the same state dict."""
    checkpoint, files = uninterrupted / "checkpoint_last.pt", [str(path) for path in pictures]
    found = {}
    for to in formats:
        convert.main([str(checkpoint), "--level", network, "--to", to, "--output", str(tmp_path / to)], "convert")
        assert f"{network}: logits differ by at most" in capfd.readouterr().out
        classify.main([str(tmp_path / to), *files], "classify")
        found[to] = classified(capfd.readouterr().out)
    logging.getLogger().setLevel(logging.DEBUG)  # as fairseq has it; convert has set it higher
    classify.main([str(checkpoint), *files, "--level", network], "classify")
    assert not logging.getLogger("PIL").isEnabledFor(logging.DEBUG)
    source = classified(capfd.readouterr().out)
    assert len(source) == 5
    for answers in found.values():
        assert [name for name, _ in answers] == [name for name, _ in source]
        assert [value for _, value in answers] == pytest.approx([value for _, value in source], abs=2e-4)
    state = torch.load(tmp_path / "torch" / NETWORK_FILES["torch"], weights_only=True)
    stock = ResNet10(ResNetConfig(width=4 if network == "super" else 2), (8, 8, 1), 10).eval()
    stock.load_state_dict(state, strict=True)
    data = ImageData.read(digits)
    images = normalised(np.array(data.load("test")[0][:4]), data)
    best = stock(images).softmax(-1).max(-1)
    assert [data.classes[number] for number in best.indices] == [name for name, _ in source[:4]]
    assert best.values.tolist() == pytest.approx([value for _, value in source[:4]], abs=1e-4)


def test_what_cannot_be_converted_or_classified(
    uninterrupted: Path, pictures: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(uninterrupted / "checkpoint_last.pt")

    def refuses(message: str, command: Callable[..., None], *arguments: str) -> None:
        with pytest.raises(SystemExit):
            command([*arguments], "command")
        assert message in capfd.readouterr().err
        assert list(tmp_path.iterdir()) == []

    output = ["--level", "core", "--output", str(tmp_path / "out")]
    refuses(
        "--to is core; allowed for a network of images: torch, onnx", convert.main, checkpoint, "--to", "core", *output
    )
    with no_room(10_000):
        full = f"{tmp_path / 'out'} cannot be written: File too large"
        refuses(full, convert.main, checkpoint, "--to", "torch", *output)
    refuses("--dense has no meaning with --to torch", convert.main, checkpoint, "--to", "torch", "--dense", *output)
    refuses(
        "--level is level2; allowed: core, super",
        convert.main,
        checkpoint,
        "--to",
        "torch",
        *output,
        "--level",
        "level2",
    )
    refuses(
        "has batch norms, and averaged weights",
        average.main,
        checkpoint,
        checkpoint,
        "--output",
        str(tmp_path / "a.pt"),
    )
    refuses("cannot be read as a checkpoint", classify.main, str(pictures[0]), str(pictures[0]))
    refuses("none.png cannot be read as an image", classify.main, checkpoint, "none.png")
    refuses("is no image; allowed: .png", classify.main, checkpoint, str(uninterrupted / "log"))
    refuses("SHA256SUMS cannot be read", classify.main, str(uninterrupted), str(pictures[0]))


def test_a_finished_run_becomes_a_record_of_table_3(
    uninterrupted: Path,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = tuple(row for row in tables.ROWS if row.name == "alternate")
    recipe = tables.ImageRecipe("digits", "digits", tmp_path)
    (tmp_path / "alternate.yaml").write_text("cpu: true\n")
    monkeypatch.setitem(tables.TABLES, "3", tables.ImageTable(recipe, "", rows))
    command = ["3", "--data", str(digits), "--seeds", "7", "--threads", "1", "--finished-only"]
    command += ["--runs", str(uninterrupted.parents[2]), "--results", str(tmp_path / "results")]
    assert tables.main(command) == 0
    found = json.loads((tmp_path / "results" / "digits" / "alternate.seed7.json").read_text())
    assert (found["updates"], found["networks"].keys()) == (UPDATES, {"core", "super"})
    assert found["images_per_update"] == pytest.approx(1437 / 6, abs=0.5)
    core = found["networks"]["core"]
    assert core["checkpoint"] == "checkpoint_best_core.pt"
    right = core["tests"]["test"]["accuracy"] * 1.8
    assert right == pytest.approx(round(right)), "of 180 images"
    assert 2.5 < found["flops"] / found["flops_by_paper"] < 3
    assert "| ATS " in (tmp_path / "results" / "digits.md").read_text()
    with pytest.raises(SystemExit):
        tables.main([*command, "--rows", "core"])
    assert "argument --rows: core is not allowed; allowed: alternate" in capfd.readouterr().err


def log(folder: Path) -> str:
    return (folder / "log").read_text()
