"""README's table: its numbers are the records', and it is drawn as its command draws it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.docs import readme_table
from scripts.tables.description import read_tables
from scripts.tables.records import Records
from tests.fixtures import ROOT
from tests.scripts.test_tables import record
from tests.support.markdown import cells_of


def test_readme_has_what_the_command_draws() -> None:
    page = (ROOT / "README.md").read_text()
    assert readme_table.replaced(page, readme_table.drawn(readme_table.RECIPE, readme_table.RESULTS)) == page


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    """Means and deviations of made-up records beside the paper's; FLOPs relative to both trainings alone."""
    records = Records(tmp_path, "multi30k")
    for kind, flops in (("low_rank_0.03125", 1e15), ("small_width_0.25", 2e15)):
        records.write(record(f"{kind}_alone", 1, core=20.0, flops=flops))
        records.write(record(f"{kind}_ats", 1, core=21.0, super=30.0, flops=3e15))
        records.write(record(f"{kind}_ats", 2, core=22.0, super=30.0, flops=3e15))
        records.write(record(f"{kind}_ats_twice", 1, core=23.0, super=31.0, flops=6e15))
    with pytest.raises(ValueError, match=r"standard has no record in .*multi30k"):
        readme_table.drawn("multi30k", tmp_path)
    records.write(record("standard", 1, super=32.0, flops=4e15))
    _, *rows = cells_of(readme_table.drawn("multi30k", tmp_path))
    assert rows[0] == ["none", "standard Transformer", "–", "32.48 (0.32)", "–", "32.00", "–", "1"]
    assert rows[1][2:] == ["17.95 (3.65)", "–", "20.00", "–", "0.20", "1"]
    assert rows[2][2:] == ["24.03 (0.77)", "31.20 (0.58)", "21.50 (0.71)", "30.00 (0.00)", "0.60", "2"]
    assert rows[3][1:] == ["ATS, twice the updates", "–", "–", "23.00", "31.00", "1.20", "1"]
    assert [row[-2] for row in rows[4:]] == ["0.33", "0.50", "1.00"]


def test_a_line_of_another_recipe_has_its_records() -> None:
    """The records are read as plain JSON, and the mean is taken by hand."""
    lines = readme_table.LINES[readme_table.RECIPE]
    _, *rows = cells_of(readme_table.drawn(readme_table.RECIPE, readme_table.RESULTS))
    found = [(line, row) for line, row in zip(lines, rows, strict=True) if line.recipe]
    assert found
    for line, row in found:
        files = sorted((readme_table.RESULTS / str(line.recipe)).glob(f"{line.row}.seed*.json"))
        networks = [json.loads(file.read_text())["networks"] for file in files]
        for name, cell in (("core", row[4]), ("super", row[5])):
            scores = [of_run[name]["tests"]["test"]["bleu"] for of_run in networks if name in of_run]
            assert cell.split(" ")[0] == (f"{sum(scores) / len(scores):.2f}" if scores else "–")
        assert row[-1] == str(len(files))


@pytest.mark.parametrize("recipe", readme_table.LINES)
def test_every_line_is_a_row(recipe: str) -> None:
    tables = read_tables()
    for line in readme_table.LINES[recipe]:
        rows = {row.name for row in readme_table.all_rows(tables, line.recipe or recipe).rows}
        assert {line.row, line.alone or "standard"} <= rows
        assert line.published is None or line.row in {row.name for row in tables[line.published].rows}


def test_the_table_is_replaced_and_nothing_else() -> None:
    page = "# Title\n\n| core | training | x |\n|---|---|---|\n| a | b | 1 |\n\ntext\n\n| other |\n"
    assert readme_table.replaced(page, "| core | training | y |") == page.replace(
        "| core | training | x |\n|---|---|---|\n| a | b | 1 |", "| core | training | y |"
    )
    with pytest.raises(ValueError, match=re.escape("2 tables begin with | core | training |; allowed: one")):
        readme_table.replaced(page + page, "")
