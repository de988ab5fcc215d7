"""Table 3: its rows, and its page; tests/end_to_end/test_images.py makes a record of a run."""

from __future__ import annotations

import re

import pytest

from fairseq_ats.cli.config_file import read_config
from scripts.tables.images import ROWS, TABLES, ImageTable, page
from tests.fixtures import ROOT

PAPER = ROOT.parent / "shared" / "paper" / "003_aab948f00bfb154c.txt"


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_have_configurations_that_say_what_they_change(table: ImageTable) -> None:
    standard = read_config(table.recipe.config("standard"))
    epoch = 352  # updates: 45,000 images by 128
    for row in table.rows:
        own = read_config(table.recipe.config(row.name))
        factor = 2 if row.name == "alternate_twice" else 1
        assert own["max_update"] == factor * standard["max_update"]
        assert own["max_update"] % epoch == 0
        assert own["warmup_updates"] == own["max_update"] // 5
        assert own["lr_period_updates"] == own["max_update"] - own["warmup_updates"]
        assert own.get("scheme", "standard") == row.name.removesuffix("_twice")
        times = ("max_update", "warmup_updates", "lr_period_updates", "scheme")
        assert {k: v for k, v in own.items() if k not in times} == {k: v for k, v in standard.items() if k not in times}
    assert {path.stem for path in table.recipe.configs.glob("*.yaml")} == {row.name for row in table.rows}


def test_full_size_is_the_same_recipe() -> None:
    small, full = (read_config(TABLES[name].recipe.config("standard")) for name in ("3", "3_full"))
    different = {key for key in small.keys() | full.keys() if small.get(key) != full.get(key)}
    of_size = {"width", "max_update", "warmup_updates", "lr_period_updates"}
    assert different == of_size | {"cpu", "num_workers", "log_interval"}
    assert (full["width"], full["max_update"]) == (64, 200 * 352)


@pytest.mark.skipif(not PAPER.is_file(), reason="needs the paper's text")
def test_published_numbers_are_the_papers() -> None:
    text = PAPER.read_text()
    lines = re.findall(r"^\| (ATS|Slimmable)? *\| (Core|Full) +\| ([\d.]+) +\| ([\d.]*)", text, re.MULTILINE)
    rows = {row.name: row for row in ROWS}
    expected = []
    for name, method in (("alternate", "ATS"), ("slimmable", "Slimmable")):
        row = rows[name]
        expected.append((method, "Core", f"{row.published['core']:.2f}", row.published_tflops))
        expected.append(("", "Full", f"{row.published['super']:.2f}", ""))
    assert lines == expected


def record(row: str, seed: int, **accuracies: float) -> dict:
    start = {"commit": "abc", "command": "x", "options": [], "hardware": "a processor"}
    return {
        "row": row,
        "seed": seed,
        "starts": [start],
        "versions": {"torch": "2"},
        "data": {"test.images.npy": "1234"},
        "epochs": 6.0,
        "flops": 6 * 11e12,
        "flops_by_paper": 6 * 3.99e12,
        "networks": {name: {"tests": {"test": {"accuracy": value}}} for name, value in accuracies.items()},
    }


def test_page_of_some_records() -> None:
    records = [
        record("slimmable", 1, core=80.0, super=84.0),
        record("slimmable", 2, core=81.0, super=85.0),
        record("alternate", 1, core=80.5, super=83.0),
        record("alternate", 2, core=81.5, super=84.5),
        record("core", 1, core=79.0),
    ]
    text = page("3", TABLES["3"], {(r["row"], r["seed"]): r for r in records})
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert ["slimmable", "Core", "93.99", "80.50 (0.71)", "2", "6", "62.7", "3.99", "11"] in cells
    assert ["", "Full", "94.72", "84.50 (0.71)", "", "", "", "", ""] in cells
    assert ["standard", "Full", "-", "not run", "0", "-", "-", "-", "-"] in cells
    assert ["ATS", "Full", "slimmable", "-0.75", "-1.00, -0.50"] in cells
    assert ["ATS", "Core", "core alone", "+2.00", "+1.50"] in cells
    assert ["ATS", "Full", "standard", "not run", "-"] in cells
    assert "- SHA-256 of the test images: 1234" in text
