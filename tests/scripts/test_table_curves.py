"""Learning curves of a table: kept beside the records, mean and deviation over seeds, updates and FLOPs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from fairseq_ats.cost.cost import Cost
from fairseq_ats.cost.training import TrainingCost
from fairseq_ats.schemes.schedule import Schedule
from scripts.figures import table_curves
from scripts.tables.description import ROOT, Row, Table
from scripts.tables.measurement import curve_of
from scripts.tables.records import Curve, Records
from tests.scripts.test_tables import JSON_LOG, read_log, record, toy_recipe

ROWS = (
    Row("standard", "Standard", ("super",)),
    Row("alone", "Alone", ("core",)),
    Row("warm", "Warm", ("core", "super"), needs={"init_from": "standard"}),
)
TABLE = Table("t", "T", toy_recipe(), ROWS, None)


def curve(*values: float, updates: int = 10, metric: str = "bleu") -> Curve:
    return [
        {"updates": updates * n, "flops": 1e15 * updates * n, metric: v, f"core_{metric}": v - 1}
        for n, v in enumerate(values, start=1)
    ]


def test_a_curve_is_the_logs_with_counted_flops(tmp_path: Path) -> None:
    costs = {1: Cost(1, 1, 10, 20, 1), 2: Cost(1, 1, 30, 60, 1)}
    cost = TrainingCost(costs, Schedule("alternate", 2), distils=False)
    found = curve_of(read_log(tmp_path, JSON_LOG), cost)
    assert found == [
        {"updates": 2, "flops": 90 + 30, "loss": 8.0, "core_loss": 8.5},
        {"updates": 6, "flops": 3 * (90 + 30), "loss": 7.0, "core_loss": 7.5},
    ]
    records, one = Records(tmp_path, "toy"), record("ats", 1, super=1.0)
    assert records.curve(one) is None
    records.write_curve(one, found)
    records.write(one)
    assert records.curve(one) == found
    assert list(records.read()) == [("ats", 1)], "a curve is no record"
    assert len((tmp_path / "toy/ats.seed1.curve.jsonl").read_text().splitlines()) == 2


def test_mean_and_deviation_by_hand() -> None:
    """As far as both have come; sqrt((0.5² + 0.5²) / 1) = 0.707."""
    found = table_curves.mean_curve([curve(20, 30, 31), curve(21, 30, updates=12)], "bleu", 5e15)
    assert found == table_curves.MeanCurve(2, [11, 22], [16e15, 27e15], [20.5, 30], [pytest.approx(0.5**0.5), 0.0])
    assert table_curves.mean_curve([curve(20)], "core_bleu", 0.0).mean == [19]
    assert table_curves.mean_curve([curve(20)], "loss", 0.0) is None
    assert [table_curves.metric_of(row, "core", "bleu") for row in ROWS[1:]] == ["bleu", "core_bleu"]
    assert table_curves.metric_of(ROWS[2], "super", "loss") == "loss"
    pruned = Row("pruned", "Pruned", ("super", "perturbed"))
    assert [table_curves.metric_of(pruned, name, "loss") for name in pruned.networks] == ["loss", "perturbed_loss"]


def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel for each metric and network; a row that began from another one begins at its FLOPs."""
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, x, y, *a, **k: drawn.append((x, y)) or plot(axes, x, y, *a, **k))
    records, output = Records(tmp_path, "toy"), tmp_path / "curves.png"
    with pytest.raises(ValueError, match="has no learning curve of these rows"):
        table_curves.draw(TABLE, ROWS, records, output)
    for one, points in (
        (record("standard", 1, super=31.0, flops=20e15), curve(30, 31)),
        (record("standard", 2, super=31.0, flops=20e15), curve(32, 33)),
        (record("alone", 1, core=29.0, flops=20e15), curve(28, 29)),
        (record("warm", 1, super=31.0, core=30.0, flops=10e15), curve(32)),
    ):
        records.write(one)
        records.write_curve(one, points)
    table_curves.draw(TABLE, ROWS, records, output)
    assert drawn == [
        ([10, 20], [28, 29]),
        ([10], [31]),
        ([10, 20], [28, 29]),
        ([30], [31]),
        ([10, 20], [31, 32]),
        ([10], [32]),
        ([10, 20], [31, 32]),
        ([30], [32]),
    ]
    assert output.read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["multi30k", "--results", str(tmp_path), "--output", str(tmp_path / "curves.png")]
    with pytest.raises(SystemExit):
        table_curves.main([*arguments, "--rows", "standard,fast"])
    assert "argument --rows: fast is not allowed; allowed: standard, low_rank_0.25_alone" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="has no learning curve of these rows"):
        table_curves.main(arguments)
    assert not (tmp_path / "curves.png").exists()


def test_nothing_but_the_picture(tmp_path: Path) -> None:
    """fairseq's root logger prints everything, and matplotlib has a line for each font: not here."""
    command = [sys.executable, "-m", "scripts.figures.table_curves", "multi30k_converged", "--rows", "standard"]
    command += ["--output", str(tmp_path / "curves.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "curves.png").exists()
