"""What is installed is what was read: the lock, and fairseq's own files."""

from __future__ import annotations

import hashlib
import re
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.fixtures import ROOT

# Of fairseq-fixed 0.12.3.1, compared with upstream fairseq (commit bedb259b): beside files that are left out, only
# defaults in dataclass/configs.py, models/transformer/transformer_config.py and models/wav2vec/wav2vec2.py differ.
FAIRSEQ = "9d58d8e5d7b91eb58bf280b611381ce67bdc4c96193a0323472f995876c502cf"


def sum_of_sources(folder: Path, packages: tuple[str, ...]) -> str:
    """SHA-256 over the names and contents of all Python files, and of the configuration; compiled parts excluded.

    The ends of lines are left out: the archive has "\\r\\n" where the publisher's wheel has "\\n".
    """
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((folder / package).rglob("*")):
            if path.suffix in (".py", ".yaml") and path.is_file():
                name = path.relative_to(folder).as_posix()
                content = path.read_bytes().replace(b"\r\n", b"\n")
                digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def test_fairseq_is_the_one_that_was_read() -> None:
    installed = distribution("fairseq-fixed")
    found = sum_of_sources(Path(str(installed.locate_file(""))), ("fairseq", "fairseq_cli"))
    assert found == FAIRSEQ, (
        f"the installed fairseq (fairseq-fixed {installed.version}) has other sources than the build that this plugin "
        "was checked against. If that is not meant: remove .venv and call scripts/setup_env.sh. If it is: compare its "
        "files with the old ones (fairseq's private parts that the plugin relies on are cited in its comments), run "
        f"all tests, and set FAIRSEQ to {found}"
    )


def test_a_changed_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "a.py").write_text("x = 1")
    before = sum_of_sources(tmp_path, ("fairseq",))
    (tmp_path / "fairseq" / "a.py").write_text("x = 2")
    changed = sum_of_sources(tmp_path, ("fairseq",))
    (tmp_path / "fairseq" / "a.py").write_text("x = 1")
    (tmp_path / "fairseq" / "libbase.so").write_text("compiled here")
    assert sum_of_sources(tmp_path, ("fairseq",)) == before
    (tmp_path / "fairseq" / "b.py").write_text("")
    assert len({before, changed, sum_of_sources(tmp_path, ("fairseq",))}) == 3


def pins(path: Path) -> dict[str, str]:
    return {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n]+)", path.read_text(), re.MULTILINE)
    }


def test_the_lock_is_that_of_the_constraints() -> None:
    locked: dict[str, str] = {}
    for name in ("build", "torch", "tools"):
        locked |= pins(ROOT / "requirements/lock" / f"{name}.txt")
    expected = pins(ROOT / "constraints.txt")
    torch_version = expected.pop("torch")
    assert pins(ROOT / "requirements/lock/torch_cpu.txt") == {"torch": f"{torch_version}+cpu"}
    assert pins(ROOT / "requirements/lock/torch_pypi.txt")["torch"] == torch_version
    del expected["fairseq-fixed"]  # requirements/fairseq.txt, and the wheel's requirements/fairseq_wheel.txt
    assert locked == expected, "constraints.txt has changed; call scripts/lock.sh"
    required = set()
    for name in ("build", "torch", "tools"):
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        required |= {line.strip().lower() for line in lines if line.strip() and not line.startswith("#")}
    assert required - {"torch"} <= locked.keys(), "requirements/ has changed; call scripts/lock.sh"


@pytest.mark.parametrize("name", ["build.txt", "torch.txt", "torch_cpu.txt", "torch_pypi.txt", "tools.txt"])
def test_every_locked_package_has_sums(name: str) -> None:
    text = (ROOT / "requirements/lock" / name).read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(ROOT / "requirements/lock" / name)) > 0
    for entry in entries:
        assert re.search(r"\\\n    --hash=sha256:[0-9a-f]{64}", entry), entry


def test_the_torch_that_runs_the_tests_is_locked() -> None:
    """Its wheel's sum cannot be known after it was installed; that there is one for this Python can."""
    sums = (ROOT / "requirements/torch_cpu.sha256").read_text().split("\n")
    of_cpu = {line.split()[0]: line.split()[1] for line in sums if line and not line.startswith("#")}
    locked = (ROOT / "requirements/lock/torch_cpu.txt").read_text()
    assert all(f"--hash=sha256:{digest}" in locked for digest in of_cpu)
    this_python = f"cp{sys.version_info.major}{sys.version_info.minor}-"
    assert sys.version_info >= (3, 14) or any(this_python in wheel for wheel in of_cpu.values())
