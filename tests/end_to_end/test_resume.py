"""A training that is killed, at any moment and several times, ends as if it had not been."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.support import instrumented
from tests.support.checkpoints import differences, load
from tests.support.command_line import train_command

# Saves and validates every third update and at the end of an epoch, with averages over six updates in the log.
EVERY_THIRD = ["--save-interval-updates", "3", "--keep-interval-updates", "1", "--log-interval", "6"]


def command(data: Path, folder: Path, *extra: str) -> list[str]:
    options = ["--alternate", "--small-ratio", "0.25", "--max-tokens", "1200", *EVERY_THIRD]
    return train_command(data, folder, 17, *options, *extra)


@pytest.fixture(scope="module")
def uninterrupted(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = instrumented.start(command(toy_data, folder), folder / "log")
    assert instrumented.finish(process) == [0], (folder / "log").read_text()[-3000:]
    return folder


def test_killed_at_any_moment(uninterrupted: Path, toy_data: Path, tmp_path: Path) -> None:
    """In updates of both networks, in validation, in each kind of write to a checkpoint, and anywhere; three epochs."""
    generator = random.Random(6)
    moments = [
        partial(instrumented.kill_in_update, 1),
        # The first save, after update 3: a file, its copies to the best and the last, and the core's best.
        partial(instrumented.kill_in_validation, 1),
        partial(instrumented.kill_in_write, generator.randint(1, 2_000)),
        *(partial(instrumented.kill_in_copy, number) for number in (1, 2, 3)),
        partial(instrumented.kill_in_update, 4),
        *(partial(instrumented.kill_in_call, generator.randint(1, 60_000)) for _ in range(3)),
        partial(instrumented.kill_after_save, 17),  # the end, but for a copy to the core's best
    ]
    for moment in moments:
        process = instrumented.start(command(toy_data, tmp_path), tmp_path / "log", moment)
        assert instrumented.finish(process) == [-signal.SIGKILL], f"{moment}: {(tmp_path / 'log').read_text()[-200:]}"
        for path in tmp_path.glob("*.pt"):
            load(path)  # raises if it is not whole
    process = instrumented.start(command(toy_data, tmp_path), tmp_path / "log")
    assert instrumented.finish(process) == [0]
    assert "training has already finished (it has 17 updates" in (tmp_path / "log").read_text()
    check_same(tmp_path, uninterrupted)


def test_two_workers_of_which_one_is_killed(toy_data: Path, tmp_path: Path) -> None:
    """The other ends by itself; both start again with the same command, across the end of the first epoch."""
    folders = {name: tmp_path / name for name in ("uninterrupted", "killed")}
    codes = {}
    for name, changes in (("uninterrupted", []), ("killed", [partial(instrumented.kill_in_update, 3)])):
        folder = folders[name]
        folder.mkdir()
        options = ["--max-update", "5", "--save-interval-updates", "2", "--ddp-backend", "legacy_ddp"]
        workers = command(toy_data, folder, *options)
        codes[name] = instrumented.finish(*instrumented.start_workers(workers, folder, [], changes))
    assert codes["uninterrupted"] == [0, 0], (folders["uninterrupted"] / "0.log").read_text()[-2000:]
    first, second = codes["killed"]
    assert first != 0
    assert second == -signal.SIGKILL
    assert instrumented.finish(*instrumented.start_workers(workers, folder, [], [])) == [0, 0]
    check_same(folders["killed"], folders["uninterrupted"])


def check_same(folder: Path, expected: Path) -> None:
    names = {path.name for path in expected.glob("*.pt*")}
    assert {path.name for path in folder.glob("*.pt*")} == names
    for name in names:
        found = differences(load(folder / name), load(expected / name))
        assert not found, (name, found)
