"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_ats.files import written_whole


def test_replaced_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with written_whole(target) as temporary:
        assert tmp_path in temporary.parents
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    link = tmp_path / "link"
    link.symlink_to(target)
    with written_whole(link) as temporary:
        temporary.write_text("through the link")
    assert link.is_symlink()
    assert target.read_text() == "through the link"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "plain", "target"]


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    def fail() -> None:
        with written_whole(tmp_path / "target") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "no" / "file", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="cannot be written"), written_whole(path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_temporary_name_is_in_no_message(tmp_path: Path, is_folder: bool) -> None:
    """Here it is longer than a name may be; it would also be what cannot be made in a folder of somebody else."""
    path = tmp_path / ("x" * 250)
    message = f"{path} cannot be written: File name too long"
    with pytest.raises(ValueError, match=message), written_whole(path, is_folder):
        pass
    with pytest.raises(FileNotFoundError, match="somebody's"), written_whole(tmp_path / "target"):
        (tmp_path / "somebody's").read_text()


def test_folders(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for text in ("old", "new"):
        with written_whole(target, is_folder=True) as folder:
            (folder / "file").write_text(text)
        assert [path.name for path in target.iterdir()] == ["file"]
        assert (target / "file").read_text() == text

    def fail() -> None:
        with written_whole(target, is_folder=True) as folder:
            (folder / "file").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(ValueError, match="not a folder"), written_whole(target / "file", is_folder=True):
        pass


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_replaced_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("old")
    rename, calls = os.replace, []

    def interrupted(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), written_whole(target, is_folder=True) as folder:
        (folder / "file").write_text("new")
    assert len(calls) == (1 if failing == 1 else 3)
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["old", "new"])
def test_folders_of_any_name(tmp_path: Path, name: str) -> None:
    for text in ("first", "second"):
        with written_whole(tmp_path / name, is_folder=True) as folder:
            (folder / "file").write_text(text)
        assert (tmp_path / name / "file").read_text() == text
