"""Rows that need other rows' runs: what is made of these, what is refused, and what the whole costs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.tables import flops_picture, layout, markdown
from scripts.tables.description import Row, Table
from scripts.tables.needs import Needs
from scripts.tables.records import Records
from scripts.tables.runs import Run
from tests.scripts.test_tables import record, toy_recipe

STANDARD = Row("standard", "Standard", ("super",))
WARM = Row(
    "warm", "Warm", ("core", "super"), {}, {"super": "standard"}, {"init_from": "standard", "core_data": "standard"}
)
ALONE = Row("alone", "Alone", ("core",), needs={"data": "standard"})


def needs(row: Row, folder: Path, averaged: int | None = None) -> Needs:
    recipe = toy_recipe(averaged_epochs=averaged)
    return Needs(Path("data"), {key: Run(recipe, name, 2, folder) for key, name in row.needs.items()})


def finished(folder: Path, row: str) -> Path:
    """The folder of a finished run, as far as its state goes."""
    run = folder / "toy" / row / "seed2"
    run.mkdir(parents=True)
    (run / "train.log").write_text("Start iterating over samples\ndone training in 1 seconds\n")
    return run


def test_commands_make_what_is_not_there(tmp_path: Path) -> None:
    source = tmp_path / "toy/standard/seed2"
    convert = f"fairseq-ats convert {source}/average.pt --level super --data data --overwrite --to"
    average = f"fairseq-ats average {source} --last-epochs 5 --output {source}/average.pt"
    both = needs(WARM, tmp_path, 5)
    assert [" ".join(line) for line in both.commands(3)] == [
        average,
        f"{convert} fairseq --output {source}/stock.pt",
        average,
        f"{convert} ctranslate2 --output {source}/ctranslate2",
        f"fairseq-ats distil data {source}/ctranslate2 {source}/translated --threads 3",
    ]
    assert both.options == ["--init-from", f"{source}/stock.pt", "--core-data", f"{source}/translated"]
    assert both.training_data == Path("data")
    alone = needs(ALONE, tmp_path)
    assert alone.commands(1)[0][2] == f"{source}/checkpoint_best.pt", "where nothing is averaged"
    assert (alone.options, alone.training_data) == ([], source / "translated")

    with pytest.raises(ValueError, match=r"it needs toy/standard seed 2, which is not started in .*; train it first"):
        both.check()
    finished(tmp_path, "standard")
    both.check()
    (source / "stock.pt").write_bytes(b"weights")
    (source / "translated").mkdir()
    (source / "translated" / "binarised.json").write_text("{}")
    assert both.commands(1) == []
    assert both.stamp() == {
        "init_from": {"row": "standard", "sha256": hashlib.sha256(b"weights").hexdigest()},
        "core_data": {"row": "standard", "sha256": hashlib.sha256(b"{}").hexdigest()},
    }
    (source / "train.log").unlink()
    both.check()  # what is there needs no run


@pytest.mark.parametrize("wrong", [{"init_from": "later"}, {"init_from": "warm"}, {"weights": "standard"}])
def test_a_table_refuses_needs_that_it_cannot_meet(wrong: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"table t: warm needs .*; allowed: init_from, core_data, data, and a row before"
    ):
        Table("t", "T", toy_recipe(), (STANDARD, replace(WARM, needs=wrong), Row("later", "L", ("super",))), None)


def test_the_whole_cost(tmp_path: Path) -> None:
    """A run that begins from another one, which counts once, costs both; its seconds are not compared."""
    table = Table("t", "T", toy_recipe(), (STANDARD, WARM, ALONE), None)
    records = Records(tmp_path, "toy")
    records.write(record("warm", 1, super=30.0, core=29.0, flops=1e15))
    assert layout.ledger(table, records.read())[1][0][1] == "not run"
    records.write(record("standard", 1, super=31.0, flops=4e15))
    assert layout.ledger(table, records.read())[1] == [["Warm", "5", "4", "1.25", "of several runs", "-", "-"]]
    assert layout.whole_flops(table, STANDARD, records.read()) == 4e15
    chain = replace(table, rows=(*table.rows, Row("last", "Last", ("super",), needs={"init_from": "warm"})))
    records.write(record("last", 1, super=30.0, flops=2e15))
    assert layout.whole_flops(chain, chain.row("last"), records.read()) == 7e15
    page = markdown.render(table, records, (1,))
    assert "Translating is not\ncounted." in page
    assert "- warm needs init from: standard" in page
    flops_picture.draw(table, records.read(), tmp_path / "picture.png")


def test_a_row_has_its_own_way_of_choosing_checkpoints(tmp_path: Path) -> None:
    short, best = replace(WARM, averaged_epochs=2), replace(ALONE, averaged_epochs=None)
    table = Table("t", "T", toy_recipe(averaged_epochs=5), (STANDARD, short, best), None)
    assert [table.recipe_of(row).averaged_epochs for row in table.rows] == [5, 2, None]
    page = markdown.render(table, Records(tmp_path, "toy"), (1,))
    assert "- decoded: the average of the last 5 epochs" in page
    assert "- warm, decoded: the average of the last 2 epochs" in page
    assert "- alone, decoded: each network's best checkpoint" in page


def test_a_start_notes_what_it_got(tmp_path: Path) -> None:
    run = Run(toy_recipe(), "warm", 2, tmp_path)
    run.folder.mkdir(parents=True)
    run.note_start("train", [], "one core", {"init_from": {"row": "standard", "sha256": "c0ffee"}})
    run.note_start("train", [], "one core")
    first, second = run.starts()
    assert first["needs"]["init_from"]["sha256"] == "c0ffee"
    assert json.dumps(second).count("needs") == 0
