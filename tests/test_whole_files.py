"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_ats.whole_files import written_whole


def test_replaced_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with written_whole(str(target)) as temporary:
        assert os.path.dirname(temporary) == str(tmp_path)
        Path(temporary).write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    (tmp_path / "plain").touch()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    link = tmp_path / "link"
    link.symlink_to(target)
    with written_whole(str(link)) as temporary:
        Path(temporary).write_text("through the link")
    assert link.is_symlink()
    assert target.read_text() == "through the link"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "plain", "target"]


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    def fail() -> None:
        with written_whole(str(tmp_path / "target")) as temporary:
            Path(temporary).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "no" / "file", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="cannot be written"), written_whole(str(path)):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
