"""``scripts/reproduce_figure4.sh`` and its like: the trainings they make, and what becomes of those that are there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME
from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cost.images import CIFAR10
from fairseq_ats.cost.synthetic import build, numbered_dictionary
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName
from scripts.figures import criteria
from tests.fixtures import ROOT, TINY_ARCH

# Says its arguments, and leaves what a training leaves, unless it is interrupted.
FAIRSEQ_ATS = """#!/bin/bash
printf '%q ' "$@"; echo
[[ $1 != train || " $* " == *" --dry-run "* ]] && exit
while [[ $1 != --save-dir ]]; do shift; done
touch "$2/made"
[[ -n ${INTERRUPTED:-} ]] && exit 1
echo 'done training in 3.2 seconds' >"$2/train.log"
"""
PYTHON = """#!/bin/bash
printf '%q ' "$@"; echo
"""

Reproduce = Callable[..., SimpleNamespace]


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reproduce:
    """Runs a script in a checkout whose programs say how they are called; what they said, line by line."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "configs", root / "configs")
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    programs = {
        "scripts/setup_env.sh": "#!/bin/bash\n",
        ".venv/bin/fairseq-ats": FAIRSEQ_ATS,
        ".venv/bin/python": PYTHON,
    }
    for name, text in programs.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    for data, file in (("multi30k", "dict.en.txt"), ("cifar10", "images.json")):
        (root / "runs" / data / "data").mkdir(parents=True)
        (root / "runs" / data / "data" / file).touch()
    monkeypatch.chdir(root)

    def run(name: str, *options: str) -> SimpleNamespace:
        done = subprocess.run([f"scripts/reproduce_{name}.sh", *options], capture_output=True, text=True)
        calls = [shlex.split(line) for line in done.stdout.splitlines()]
        return SimpleNamespace(status=done.returncode, error=done.stderr, calls=calls)

    return run


# How many trainings each makes.
FIGURES = {
    ("figure4", "demo"): 2,
    ("figure4", "multi30k"): 2,
    ("figures23", "demo"): 5,
    ("figures23", "multi30k"): 5,
    ("figures23", "cifar10"): 4,
    ("figures23", "digits"): 4,
    ("theory", "demo"): 29,
    ("theory", "multi30k"): 29,
}


@pytest.mark.parametrize(("figure", "data"), FIGURES)
def test_every_training_can_be_made(reproduce: Reproduce, figure: str, data: str) -> None:
    """fairseq and this plugin accept its options; small layers are the only difference."""
    done = reproduce(figure, data, "--dry-run", "--threads", "1", "--", "--seed", "5")
    assert (done.status, done.error) == (0, "")
    folders, schemes = [], set()
    for command, config, given, save_dir, folder, *options in done.calls:
        assert (command, config, given, save_dir) == (
            "train",
            f"configs/{figure}/{data}.yaml",
            f"runs/{data}/data",
            "--save-dir",
        )
        assert options[:2] == ["--threads", "1"]
        assert options[-3:] == ["--seed", "5", "--dry-run"]
        folders.append(folder)
        of_images = data in ("cifar10", "digits")
        scheme = dict(pairwise(options)).get("--scheme", "alternate" if "--alternate" in options else "standard")
        given = dict(pairwise(options)).get("--scheme-args")
        own = {name: int(value) for name, value in pairwise(options) if name == "--parts"}
        assert not SchemeOptions(SchemeName(scheme), arguments=given, own_options=own).problems(2)
        if scheme in schemes and "--step-scale" not in options:
            continue
        small = ["--width", "2"] if of_images else TINY_ARCH
        built = build(
            [*options_of(read_config(Path(config)), Path(config)), *options[2:-1], *small],
            CIFAR10 if of_images else numbered_dictionary(50),
        )
        assert (built.task.cfg._name == IMAGE_TASK_NAME) == of_images
        assert (built.task.cfg.scheme or ("alternate" if built.task.cfg.alternate else "standard")) == scheme
        assert built.task.criteria.interval > 0
        schemes.add(scheme)
    assert {folder.rpartition("/")[0] for folder in folders} == {f"runs/{figure}/{data}"}
    assert len({*folders}) == len(folders) == FIGURES[figure, data]
    if figure == "theory":
        assert schemes == {*SchemeName} - {SchemeName.CORE}


def test_what_is_there_is_not_made_again(reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted training goes on in its folder; one of another command is replaced; only these runs are drawn."""
    of_theory = ("theory", "multi30k", "prune_neurons", "dropout")
    folder = Path("runs/theory/multi30k/dropout")
    monkeypatch.setenv("INTERRUPTED", "1")
    assert reproduce(*of_theory).status != 0
    assert (folder / "made").exists()
    (folder / "checkpoint_last.pt").touch()
    monkeypatch.delenv("INTERRUPTED")
    first = reproduce(*of_theory)
    assert (first.status, first.error) == (0, "")
    assert [call[4] for call in first.calls if call[0] == "train"] == [
        str(folder),
        str(folder.with_name("prune_neurons")),
    ]
    assert (folder / "checkpoint_last.pt").exists()
    again = reproduce(*of_theory)
    assert not [call for call in again.calls if call[0] == "train"]
    drawn = ["-m", "scripts.figures.theory", "runs/theory/multi30k/theory"]
    logs = [f'dropout {{"keep_prob": 0.5}}={folder}/train.log']
    logs += ['prune {"sparsity": 0.5, "end": 400}=runs/theory/multi30k/prune_neurons/train.log']
    for one in (first, again):
        assert [*drawn, *logs] in one.calls
    assert Path("runs/theory/multi30k/table.md").read_text()
    other = reproduce(*of_theory[:2], "dropout", "--", "--seed", "2")
    assert [call[-2:] for call in other.calls if call[0] == "train"] == [["--seed", "2"]]
    assert not (folder / "checkpoint_last.pt").exists()


def test_data_that_the_scripts_make(reproduce: Reproduce) -> None:
    demo, digits = reproduce("figure4"), reproduce("figures23", "digits")
    assert [call[:2] for call in demo.calls[:2]] == [["-m", "scripts.demo.corpus"], ["binarise", "runs/demo/raw"]]
    assert digits.calls[0] == ["images", "digits", "runs/digits/data"]
    assert [call[:5] for call in digits.calls if call[0] == "-m"] == [
        ["-m", "scripts.figures.criteria", "--figures", "23", f"runs/figures23/digits/{name}"]
        for name in ("scaled", "exact")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure4", "cifar10"], "cifar10 is not allowed; allowed: demo multi30k, or runs: standard ats"),
        (["theory", "dropuot"], "dropuot is not allowed; allowed: demo multi30k, or runs: standard ats ats_alpha"),
        (["figures23", "cifar10", "--data", "."], "--data is ., which is not a folder of prepared images"),
        (["theory", "--data", "scripts"], "--data is scripts, which is not a folder of binarised data"),
    ],
)
def test_refused(reproduce: Reproduce, arguments: list[str], message: str) -> None:
    done = reproduce(*arguments)
    assert done.status == 1
    assert done.error.startswith(f"reproduce_{arguments[0]}: {message}")
    assert not done.calls


@pytest.mark.parametrize(("largest", "scale"), [(40.0, "linear"), (60.0, "log")])
def test_one_large_value_does_not_flatten_a_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float, scale: str
) -> None:
    drawn = []
    monkeypatch.setattr(criteria, "write_png", lambda figure, path: drawn.append(figure))
    runs = {"run": [{"num_updates": 1, "value": 1.0}, {"num_updates": 2, "value": largest}]}
    criteria.draw(runs, tmp_path / "picture.png", [("title", "label", lambda record: record["value"])] * 2)
    assert [axis.get_yscale() for axis in drawn[0].axes] == [scale] * 2
