"""Damaged, mislabelled and malicious files end in an error that names them, or change nothing.

``FUZZ_CASES=10000 scripts/test.sh tests/end_to_end/test_hostile_files.py`` tries more of them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary
from fairseq_cli import generate, interactive, validate
from fairseq_cli import train as fairseq_train

from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.reading import check_sums, read_header
from fairseq_ats.cli import average, convert, cost, translate
from fairseq_ats.data.checks import check_split, dictionary_sum
from fairseq_ats.inference.deployed_folder import DESCRIPTION_FILE, SUMS_FILE, DeployedFolder
from fairseq_ats.inference.deployed_folder import check_sums as check_folder
from tests.checkpoints.test_reading import Code
from tests.fixtures import OUR_OPTIMIZER, OUR_TASK, ROOT, TINY_ARCH, TRAINING
from tests.inference.test_deployed_folder import DESCRIPTION
from tests.support.command_line import train
from tests.support.conversions import save_checkpoint

CASES = int(os.environ.get("FUZZ_CASES", "60"))

Build = Callable[..., SimpleNamespace]
Languages = list[tuple[str, Dictionary]]


def damaged(content: bytes, random: Random) -> bytes:
    """Cut off, with one bit changed, or with a block of other bytes; never the same."""
    place = random.randrange(len(content))
    kind = random.choice(["cut", "bit", "bit", "block"])
    if kind == "cut":
        return content[:place]
    if kind == "bit":
        return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    block = bytes(byte ^ random.randrange(1, 256) for byte in content[place : place + 40])
    return content[:place] + block + content[place + len(block) :]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, Namespace):
        return isinstance(other, Namespace) and same(vars(one), vars(other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


def refusal(read: Callable[[], Any], kind: type[Exception] = ValueError) -> str | None:
    """What it says when it refuses; None if it does not. Any other exception fails the test."""
    try:
        read()
    except kind as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def checkpoint(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(build(), tmp_path_factory.mktemp("whole") / "checkpoint.pt")


@pytest.fixture(scope="module")
def languages(toy_data: Path) -> Languages:
    return [(language, Dictionary.load(str(toy_data / f"dict.{language}.txt"))) for language in ("en", "de")]


def test_damaged_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    """Every byte that is used has a sum: what is not refused was read as it had been written."""
    whole, content = read_header(str(checkpoint)), checkpoint.read_bytes()
    path, refused = tmp_path / "damaged.pt", 0
    for seed in range(CASES):
        path.write_bytes(damaged(content, Random(seed)))
        said = refusal(lambda: Checkpoint.open(path))
        refused += said is not None
        assert same(read_header(str(path)), whole) if said is None else str(path) in said, seed
    assert refused > 0.8 * CASES


def test_torch_would_use_a_flipped_bit(checkpoint: Path, tmp_path: Path) -> None:
    """Otherwise the sums need not be checked."""
    path = flipped_tensor(checkpoint, tmp_path / "flipped.pt")
    assert not same(torch.load(path, weights_only=True)["model"], torch.load(checkpoint, weights_only=True)["model"])
    with pytest.raises(ValueError, match="is damaged: the sum of its record"):
        check_sums(str(path))


def test_checkpoints_without_sums(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": {"a": torch.ones(3)}}, tmp_path / "no_sums.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    torch.save({"model": {}}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("no_sums.pt", "old.pt"):
        check_sums(str(tmp_path / name))


def flipped_tensor(checkpoint: Path, path: Path) -> Path:
    """A copy with one bit of one weight changed."""
    content = bytearray(checkpoint.read_bytes())
    weight = torch.load(checkpoint, weights_only=True)["model"]["encoder.layers.0.fc1.extension_weight"]
    place = content.index(weight.numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    return path


def truncated(checkpoint: Path, path: Path) -> Path:
    path.write_bytes(checkpoint.read_bytes()[:-100])
    return path


def with_code(checkpoint: Path, path: Path) -> Path:
    state = torch.load(checkpoint, weights_only=True)
    state["extra_state"]["code"] = Code(path.parent / "ran")
    torch.save(state, path)
    return path


def of_another_kind(checkpoint: Path, path: Path) -> Path:
    torch.save(torch.load(checkpoint, weights_only=True)["model"], path)
    return path


def with_wrong_options(checkpoint: Path, path: Path) -> Path:
    torch.save(torch.load(checkpoint, weights_only=True) | {"cfg": "model"}, path)
    return path


OURS = ["--task", OUR_TASK]
TRAIN = [*OURS, "--optimizer", OUR_OPTIMIZER, *TINY_ARCH, *TRAINING, "--max-update", "1", "--disable-validation"]


@contextlib.contextmanager
def command_line(*arguments: object) -> Iterator[None]:
    before, sys.argv = sys.argv, ["command", *map(str, arguments)]
    try:
        yield
    finally:
        sys.argv = before


def through_fairseq(main: Callable[[], None], *arguments: object) -> None:
    with command_line(*arguments):
        main()


COMMANDS: dict[str, Callable[[Path, Path, Path], None]] = {
    "generate": lambda path, data, _: through_fairseq(generate.cli_main, data, *OURS, "--path", path, "--cpu"),
    "interactive": lambda path, data, _: through_fairseq(interactive.cli_main, data, *OURS, "--path", path, "--cpu"),
    "validate": lambda path, data, _: through_fairseq(
        validate.cli_main, data, *OURS, "--path", path, "--cpu", "--max-tokens", 400
    ),
    "resume": lambda path, data, out: through_fairseq(
        fairseq_train.cli_main, data, *TRAIN, "--save-dir", out, "--restore-file", path
    ),
    "finetune": lambda path, data, out: through_fairseq(
        fairseq_train.cli_main, data, *TRAIN, "--save-dir", out, "--finetune-from-model", path
    ),
    "warm start": lambda path, data, out: through_fairseq(
        fairseq_train.cli_main, data, *TRAIN, "--save-dir", out, "--init-from", path
    ),
    "average": lambda path, _, out: average.main([str(path), str(path), "--output", str(out)]),
    "convert": lambda path, data, out: convert.main(
        [str(path), "--level", "super", "--to", "fairseq", "--output", str(out), "--data", str(data)]
    ),
    "translate": lambda path, data, out: translate.main([str(path), "--data", str(data), "--output", str(out)]),
    "cost": lambda path, *_: cost.main([str(path)]),
}


CHANGES = [(command, change) for command in COMMANDS for change in (flipped_tensor, truncated, with_code)]
CHANGES += [(command, change) for command in ("resume", "convert") for change in (of_another_kind, with_wrong_options)]


@pytest.mark.parametrize(("command", "change"), CHANGES)
def test_every_command_refuses(
    checkpoint: Path,
    toy_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    change: Callable[[Path, Path], Path],
) -> None:
    path = change(checkpoint, tmp_path / "bad.pt")
    with pytest.raises((Exception, SystemExit)) as stopped:
        COMMANDS[command](path, toy_data, tmp_path / "out")
    said = f"{stopped.value} {capsys.readouterr().err}"
    # fairseq-validate reads a checkpoint before it makes the task; it says the file's name in its log.
    if command != "validate" or change is flipped_tensor:
        assert isinstance(stopped.value, (ValueError, SystemExit))
        assert "bad.pt" in said
        assert any(words in said for words in ("damaged", "is not a fairseq checkpoint", "was not written by fairseq"))
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert left == [path], "something was run, or left behind"


def test_nothing_here_reads_code() -> None:
    """What would run code of a file, by name; each use in fairseq is in SECURITY.md."""
    unsafe = re.compile(
        r"weights_only\s*=\s*False|allow_pickle(?!=False)|\b(pickle|marshal|shelve|joblib|dill)\.loads?\(|yaml\.(unsafe_)?load\("
        r"|(?<![\w.])(eval|exec)\("
    )
    loads = ("torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "pickle.load(f)", "yaml.load(f)")
    for example in (*loads, "x = eval(text)"):
        assert unsafe.search(example)
    files = [*(ROOT / "fairseq_ats").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert len(files) > 40
    found = [
        f"{file}: {line}" for file in files for line in file.read_text("utf-8").splitlines() if unsafe.search(line)
    ]
    assert found == []


def test_another_dictionary_of_the_same_size(checkpoint: Path, toy_data: Path, tmp_path: Path) -> None:
    """The numbers would mean other words, and nothing else would tell."""
    data = shutil.copytree(toy_data, tmp_path / "data")
    for language in ("en", "de"):
        lines = (data / f"dict.{language}.txt").read_text("utf-8").splitlines(keepends=True)
        (data / f"dict.{language}.txt").write_text("".join(reversed(lines)), "utf-8")
    for command in ("generate", "validate", "interactive", "resume"):
        with pytest.raises(ValueError, match=r"checkpoint.* was trained with different dictionaries from those in"):
            COMMANDS[command](checkpoint, data, tmp_path / "out")
    with pytest.raises(SystemExit):
        COMMANDS["translate"](checkpoint, data, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["idx", "bin"])
def test_damaged_binarised_data(toy_data: Path, tmp_path: Path, languages: Languages, suffix: str) -> None:
    """Nothing in an index can change unseen; of the data, a token of the dictionary for another one."""
    for file in toy_data.glob("valid.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"valid.en-de.de.{suffix}"
    content, refused = path.read_bytes(), 0
    check_split(tmp_path, "valid", languages)
    for seed in range(CASES):
        change = damaged(content, Random(seed))
        path.write_bytes(change)
        said = refusal(lambda: check_split(tmp_path, "valid", languages))
        refused += said is not None
        assert len(change) == len(content) if said is None else str(path.with_suffix("")) in said, seed
    assert refused == CASES if suffix == "idx" else refused > CASES / 4


def test_binarised_data_that_do_not_belong_together(toy_data: Path, tmp_path: Path, languages: Languages) -> None:
    def copied(source: str, target: str) -> None:
        for suffix in ("idx", "bin"):
            shutil.copy(toy_data / f"{source}.{suffix}", tmp_path / f"{target}.{suffix}")

    copied("train.en-de.en", "train.en-de.en")
    copied("valid.en-de.de", "train.en-de.de")
    with pytest.raises(ValueError, match=r"has 600 of en and 40 of de sentences"):
        check_split(tmp_path, "train", languages)
    small = Dictionary()
    with pytest.raises(ValueError, match=r"has the token \d+, and its dictionary has 4"):
        check_split(toy_data, "train", [("en", small), ("de", small)])
    copied("train.en-de.de", "train.en-de.de")
    copied("valid.en-de.de", "train1.en-de.de")
    copied("train.en-de.en", "train1.en-de.en")
    with pytest.raises(ValueError, match=r"train1\.en-de has"):
        check_split(tmp_path, "train", languages)


def test_a_split_in_parts(build: Callable[..., SimpleNamespace], toy_data: Path, tmp_path: Path) -> None:
    """fairseq takes the first part -1 times by default; each folder of the data is looked at."""
    whole, parts = (shutil.copytree(toy_data, tmp_path / name) for name in ("whole", "parts"))
    for name in ("train", "valid"):
        for file in list(parts.glob(f"{name}.en-de.*")):
            shutil.copy(file, parts / file.name.replace(name, f"{name}1", 1))
    task = build().task
    task.cfg.data = f"{whole}{os.pathsep}{parts}"
    said = r"parts has train\.en-de and train1\.en-de, and --upsample-primary is -1; allowed: .* 1 or more"
    with pytest.raises(ValueError, match=said):
        task.load_dataset("train", combine=True)
    task.load_dataset("valid", combine=True)  # always of the first folder
    task.cfg.data = str(parts)
    with pytest.raises(ValueError, match=r"parts has valid\.en-de and valid1\.en-de"):
        task.load_dataset("valid", combine=True)
    task.load_dataset("valid")
    task.cfg.upsample_primary = 2
    task.load_dataset("train", combine=True)
    assert len(task.dataset("train")) == 3 * 600


def test_damaged_dictionaries(toy_data: Path, tmp_path: Path) -> None:
    """fairseq refuses them, or they have another sum, which checkpoints remember."""
    content, path = (toy_data / "dict.en.txt").read_bytes(), tmp_path / "dict.en.txt"
    path.write_bytes(content)
    whole = Dictionary.load(str(path))
    for seed in range(CASES):
        path.write_bytes(damaged(content, Random(seed)))
        if refusal(lambda: Dictionary.load(str(path)), Exception) is None:
            found = Dictionary.load(str(path))
            assert (dictionary_sum(found) == dictionary_sum(whole)) == (found.symbols == whole.symbols), seed


def test_damaged_folders(tmp_path: Path) -> None:
    for name in ("dict.en.txt", "dict.de.txt", "pieces.model", "model.bin"):
        (tmp_path / name).write_bytes(Random(name).randbytes(300))
    DESCRIPTION.write(tmp_path)
    check_folder(tmp_path)
    files = sorted(tmp_path.iterdir())
    for seed in range(CASES):
        path = files[seed % len(files)]
        content = path.read_bytes()
        path.write_bytes(damaged(content, Random(seed)))
        if path.name != SUMS_FILE or path.read_bytes().split() != content.split():  # else its last newline is gone
            with pytest.raises(ValueError, match=SUMS_FILE):
                check_folder(tmp_path)
        if path.name == DESCRIPTION_FILE:
            with contextlib.suppress(ValueError):  # and nothing else
                DeployedFolder.read(tmp_path)
        path.write_bytes(content)
    (tmp_path / "model.bin").rename(tmp_path / "other.bin")
    for name in ("model", "other"):
        with pytest.raises(ValueError, match=rf"'{name}\.bin'"):
            check_folder(tmp_path)
        (tmp_path / "model.bin").write_bytes(Random("model.bin").randbytes(300))


def test_damaged_data_end_a_command(checkpoint: Path, toy_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(toy_data, tmp_path / "data")
    for split in ("train", "test"):
        index = data / f"{split}.en-de.de.idx"
        index.write_bytes(index.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"test\.en-de\.de\.idx has"):
        COMMANDS["generate"](checkpoint, data, tmp_path)
    with pytest.raises(ValueError, match=r"train\.en-de\.de\.idx has"):
        COMMANDS["resume"](checkpoint, data, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_exit_status_of_a_real_command(checkpoint: Path, toy_data: Path, tmp_path: Path) -> None:
    bad = flipped_tensor(checkpoint, tmp_path / "bad.pt")
    said = train(toy_data, tmp_path / "run", 1, "--restore-file", str(bad), fails=True)
    assert "bad.pt" in said.strip().splitlines()[-1]
    assert not list((tmp_path / "run").glob("*.pt"))
