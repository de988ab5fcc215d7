"""Tables: logs, records, ledger, Markdown, dry run, and a toy table from training to picture."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sacrebleu
import torch
import yaml
from evaluate import text_of
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from matplotlib.axes import Axes
from train import options_of
from training_log import TrainingLog

from fairseq_ats.checkpoints.average import average_checkpoints
from scripts.figures import learning_curves
from scripts.tables import expectation, flops_picture, layout, markdown, scoring
from scripts.tables import reproduce as reproduce_table
from scripts.tables import runs as runs_module
from scripts.tables.comparison import compare, paired_bootstrap
from scripts.tables.description import Published, Recipe, Row, SearchChoices, Table, read_tables
from scripts.tables.expectation import Expectation, expect
from scripts.tables.records import Records, digest
from scripts.tables.runs import FINISHED, INTERRUPTED, Run
from scripts.tables.scoring import Decoding, References, read_references, score_networks
from scripts.tables.training_cost import cost_of_config
from tests.command_line import start
from tests.conftest import ROOT, TINY_ARCH

# Logs.

OPTIONS = "{'_name': None, 'common': {'log_file': 'train.log'}}\n"
SIMPLE_LOG = f"""\
{OPTIONS}\
Start iterating over samples
epoch 001:      1 / 4 loss=9.1, nll_loss=9, core_loss=None, wpb=90, bsz=9, num_updates=1, lr=0.1, train_wall=1, wall=2
epoch 001 | valid on 'valid' subset | loss 8 | nll_loss 7 | core_loss 8.5 | wpb 50 | bsz 5 | num_updates 2 | best_loss 8
epoch 001 | loss 9 | core_loss None | wps 10 | wpb 90 | bsz 9 | num_updates 2 | train_wall 5 | wall 7
Start iterating over samples
epoch 002 | valid on 'valid' subset | loss 7 | nll_loss 6 | core_loss 7.5 | wpb 50 | bsz 5 | num_updates 6 | best_loss 7
epoch 002 | valid on 'valid' subset | loss 7 | nll_loss 6 | core_loss 7.5 | wpb 50 | bsz 5 | num_updates 6 | best_loss 7
epoch 002 | loss 8 | core_loss 8.2 | wps 10 | wpb 120 | bsz 10 | num_updates 6 | train_wall 11 | wall 20
epoch 002 | loss 8 | core_loss 8.2 | wps 10 | wpb 120 | bsz 10 | num_updates 6 | train_wall 11 | wall 20
done training in 19.8 seconds
"""
JSON_LOG = """\
Start iterating over samples
{"epoch": 1, "update": 0.5, "loss": "9.1", "wpb": "90", "num_updates": "1", "train_wall": "1"}
{"epoch": 1, "valid_loss": "8", "valid_core_loss": "8.5", "valid_num_updates": "2"}
{"epoch": 1, "train_loss": "9", "train_core_loss": null, "train_wpb": "90", "train_bsz": "9", \
"train_num_updates": "2", "train_train_wall": "5", "train_wall": "7"}
Start iterating over samples
{"epoch": 2, "valid_loss": "7", "valid_core_loss": "7.5", "valid_num_updates": "6"}
{"epoch": 2, "train_loss": "8", "train_wpb": "120", "train_bsz": "10", "train_num_updates": "6", \
"train_train_wall": "11", "train_wall": "20"}
done training in 19.8 seconds
"""


def read_log(folder: Path, text: str) -> TrainingLog:
    (folder / "train.log").write_text(text)
    return TrainingLog.read(folder / "train.log")


@pytest.mark.parametrize("text", [SIMPLE_LOG, JSON_LOG], ids=["simple", "json"])
def test_logs(tmp_path: Path, text: str) -> None:
    log = read_log(tmp_path, text)
    assert log.is_finished
    assert log.updates == 6
    assert {updates: (point["loss"], point["core_loss"]) for updates, point in log.validations.items()} == {
        2: (8, 8.5),
        6: (7, 7.5),
    }
    assert log.tokens_per_update == pytest.approx((2 * 90 + 4 * 120) / 6)
    assert log.sentences_per_update == pytest.approx((2 * 9 + 4 * 10) / 6)
    assert (log.train_seconds, log.wall_seconds) == (16, 20)


def test_log_of_a_resumed_run(tmp_path: Path) -> None:
    """Epoch 2 is done once more, with other numbers, and then more follows; the last word counts."""
    again = (
        SIMPLE_LOG.split("Start iterating over samples\n")[2]
        .replace("| loss 7 ", "| loss 6 ")
        .replace("train_wall 11", "train_wall 12")
    )
    log = read_log(tmp_path, SIMPLE_LOG + "Start iterating over samples\n" + again)
    assert log.validations[6]["loss"] == 6
    assert log.train_seconds == 5 + 12
    resumed = read_log(tmp_path, SIMPLE_LOG + OPTIONS + again.replace("wall 20", "wall 14"))
    assert resumed.wall_seconds == 7 + 14, "the clock of each process begins at 0"
    assert log.is_finished
    assert not read_log(tmp_path, SIMPLE_LOG + "Start iterating over samples\n").is_finished
    empty = read_log(tmp_path, "Start iterating")
    assert (empty.updates, empty.is_finished) == (0, False)
    with pytest.raises(ValueError, match="no epoch has ended"):
        _ = empty.tokens_per_update


# Records.

HYPOTHESES = {"super": ["ein Satz", "noch einer"], "core": ["", "ein anderer"]}


def record(row: str, seed: int, *, flops: float = 3e15, seconds: float = 90.0, **bleu: float) -> dict[str, Any]:
    """A line as :func:`tables.measurement.measure` makes it, with few networks and round numbers."""
    networks = {
        network: {
            "bleu": value,
            "signature": "nrefs:1",
            "tokenised_bleu": value + 1,
            "tokenised_signature": "sacremoses de, tok:none",
            "hypotheses_sha256": f"{row} {seed} {network}",
        }
        for network, value in bleu.items()
    }
    return {
        **{"row": row, "seed": seed, "commit": "c0ffee", "command": "train", "versions": {"torch": "2"}, "options": []},
        **{"hardware": "one core", "references_sha256": "r", "updates": 1900, "flops": flops, "networks": networks},
        "timing": {"train_seconds": seconds, "wall_seconds": seconds + 5, "resumed": []},
    }


def test_records_are_added_and_replaced(tmp_path: Path) -> None:
    records = Records(tmp_path / "results", "toy")
    assert records.runs() == {}
    first = record("ats", 1, super=30.0, core=25.0)
    for network, lines in HYPOTHESES.items():
        first["networks"][network]["hypotheses_sha256"] = digest(lines)
    records.add_run(first, HYPOTHESES)
    records.add_run(record("standard", 1, super=31.0), {"super": ["x"]})
    before = {path.name: path.read_bytes() for path in records.hypotheses_folder.iterdir()}
    assert {bytes_[4:8] for bytes_ in before.values()} == {bytes(4)}, "gzip's time, which would make other bytes"
    assert records.hypotheses(("ats", 1), "super") == HYPOTHESES["super"]
    assert records.hypotheses(("ats", 1), "core") == HYPOTHESES["core"]
    assert records.hypotheses(("standard", 1), "super") is None, "they are not those of the line"

    records.add_run(first | {"updates": 7}, HYPOTHESES)
    assert {key: one["updates"] for key, one in records.runs().items()} == {("ats", 1): 7, ("standard", 1): 1900}
    assert len(records.path.read_text().splitlines()) == 2
    assert {path.name: path.read_bytes() for path in records.hypotheses_folder.iterdir()} == before, "of other bytes"
    (records.hypotheses_folder / "ats.seed1.core.txt.gz").unlink()
    assert records.hypotheses(("ats", 1), "core") is None


def test_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mark if its files were changed, but for the results that a table is filling."""
    monkeypatch.setattr(runs_module, "ROOT", tmp_path)
    assert runs_module.commit() is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "results").mkdir()
    for name in ("train.py", "results/table.md"):
        (tmp_path / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD").strip()
    (tmp_path / "results/table.md").write_text("2")
    (tmp_path / "new.py").write_text("2")
    assert runs_module.commit() == head
    (tmp_path / "train.py").write_text("2")
    assert runs_module.commit() == f"{head}-dirty"


@pytest.mark.parametrize("line", ['{"row": "ats"}', '{"row": "ats", "se', "[1]"])
def test_damaged_records_are_refused(tmp_path: Path, line: str) -> None:
    records = Records(tmp_path, "toy")
    records.path.write_text(json.dumps(record("ats", 1, super=1.0)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"toy.jsonl, line 2 is no record"):
        records.add_run(record("ats", 2, super=1.0), {})
    assert records.path.read_text().endswith(line + "\n"), "it was changed"


# The table.


def toy_recipe(folder: Path = ROOT / "configs", **changes: Any) -> Recipe:
    values = {
        **{
            "name": "toy",
            "title": "Toy data",
            "configs": folder,
            "data": Path("data"),
            "prepare": "scripts/prepare.sh",
            "languages": ("en", "de"),
        },
        **{"averaged_epochs": None, "search": SearchChoices((2,), (1.0,)), "sentences": 600, "length": 6},
    }
    return Recipe(**values | {"vocabulary": 100} | changes)


def toy_table(recipe: Recipe, published_by: str | None = "paper") -> Table:
    rows = (
        Row("standard", "Standard", ("super",), {"super": Published(32.48, 0.32)}),
        Row("alone", "Alone", ("core",), {"core": Published(22.1)}),
        Row("ats", "ATS", ("core", "super"), {}, {"core": "alone", "super": "standard"}),
    )
    return Table("toy", "Table T", recipe, rows, published_by)


def test_markdown_of_fixed_records(tmp_path: Path) -> None:
    """ATS with two seeds, the core alone with one, the standard row not run."""
    records = Records(tmp_path, "toy")
    for one in (
        record("ats", 1, super=30.0, core=25.0),
        record("ats", 2, super=31.0, core=26.5, flops=4e15, seconds=110.0),
        record("alone", 1, core=24.0, flops=1e15, seconds=30.0),
    ):
        records.add_run(one, {})
    records.add_comparison(
        {"row": "ats", "network": "core", "seed": 1, "difference": 1.0, "p_value": 0.012}
        | {"hypotheses_sha256": ["ats 1 core", "alone 1 core"]}
    )
    lines = markdown.render(toy_table(toy_recipe()), records, (1, 2, 3)).split("\n")
    assert lines[0] == "# Table T"
    assert [line for line in lines if line.startswith("|")] == [
        "| Model | Sub-Network: paper | Sub-Network: ours | Sub-Network: ours, tokenised | Full Network: paper "
        "| Full Network: ours | Full Network: ours, tokenised | seeds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| Standard | - | - | - | 32.48 (0.32) | not run | not run | 0 of 3 |",
        "| Alone | 22.10 | 24.00 | 25.00 | - | - | - | 1 of 3 |",
        # sqrt((0.75² + 0.75²) / 1) = 1.06, sqrt(0.5² + 0.5²) = 0.71
        "| ATS | - | 25.75 (1.06) | 26.75 (1.06) | - | 30.50 (0.71) | 31.50 (0.71) | 2 of 3 |",
        "| Model | network | against | seed 1 | seed 2 | seed 3 |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        "| ATS | Sub-Network | Alone | +1.00 (p = 0.012) | not run | not run |",
        "| ATS | Full Network | Standard | not run | not run | not run |",
        "| Model | PFLOP: joint | separate | ratio | seconds: joint | separate | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ATS | not run | not run | not run | not run | not run | not run |",
    ]
    assert "- commit: c0ffee" in lines
    assert lines.count("- hardware: one core") == 1
    assert not any("options beside" in line for line in lines)

    records.add_run(record("standard", 1, super=32.0, flops=5e15, seconds=100.0), {})
    # Joint (3 + 4)/2 and (90 + 110)/2; separate 1 + 5 and 30 + 100.
    cells = ["ATS", "3.5", "6", "0.58", "100", "130"]
    assert layout.ledger(toy_table(toy_recipe()), records.runs()).rows == [[*cells, "-"]], "110 is far from 90"
    records.add_run(record("ats", 1, super=30.0, core=25.0, seconds=92.0), {})
    records.add_run(record("ats", 2, super=31.0, core=26.5, flops=4e15, seconds=108.0), {})
    assert layout.ledger(toy_table(toy_recipe()), records.runs()).rows == [[*cells, "0.77"]]
    assert layout.comparisons(toy_table(toy_recipe()), records, (1,)).rows[1][3] == "not compared"
    elsewhere = record("standard", 1, super=32.0, flops=5e15) | {"hardware": "a GPU", "options": ["--fp16"]}
    elsewhere["timing"]["resumed"] = [{"commit": "decade", "options": ["--amp"], "hardware": "two GPUs"}]
    records.add_run(elsewhere, {})
    sources = markdown.render(toy_table(toy_recipe()), records, (1, 2, 3)).split("\n")
    for options in ("--fp16", "--amp"):
        assert f"- options beside those of a row: standard: {options}" in sources
    for line in ("- hardware: a GPU", "- hardware: two GPUs", "- commit: c0ffee", "- commit: decade"):
        assert line in sources
    assert layout.ledger(toy_table(toy_recipe()), records.runs()).rows[0][4:] == ["not on the same hardware", "-", "-"]


def test_scores_against_flops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and standard deviation in the network's panel, at the FLOPs of the whole run; nothing of rows not run."""
    drawn = []
    errorbar = Axes.errorbar
    monkeypatch.setattr(
        Axes,
        "errorbar",
        lambda axes, x, y, yerr=None, **style: drawn.append((x, y, yerr)) or errorbar(axes, x, y, yerr=yerr, **style),
    )
    records = Records(tmp_path, "toy")
    for one in (
        record("ats", 1, super=30.0, core=25.0),
        record("ats", 2, super=31.0, core=26.5, flops=4e15),
        record("alone", 1, core=24.0, flops=1e15),
    ):
        records.add_run(one, {})
    flops_picture.draw(toy_table(toy_recipe()), records.runs(), tmp_path / "picture.png")
    assert drawn == [(1, 24, None), (3.5, 25.75, pytest.approx(1.5 / 2**0.5)), (3.5, 30.5, pytest.approx(0.5**0.5))]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flops", "text"), [(2.4e13, "0.024"), (2.06e15, "2.06"), (26.74e15, "26.7"), (1.0123e18, "1,012")]
)
def test_pflop(flops: float, text: str) -> None:
    assert layout.pflop(flops) == text


def test_a_comparison_of_other_hypotheses_does_not_count(tmp_path: Path) -> None:
    records = Records(tmp_path, "toy")
    records.add_run(record("ats", 1, super=30.0, core=25.0), {})
    records.add_run(record("alone", 1, core=24.0), {})
    line = {"row": "ats", "network": "core", "seed": 1, "difference": 1.0, "p_value": 0.5}
    records.add_comparison(line | {"hypotheses_sha256": ["ats 1 core", "of an older run"]})
    assert layout.comparisons(toy_table(toy_recipe()), records, (1,)).rows[0][3] == "not compared"


# Scores.

REFERENCES = References(
    [f"Der Hund läuft über die Straße, und {word} bellt." for word in ("er", "sie", "man", "es", "wer")] * 8, "de", True
)


def test_tokenised_bleu_is_that_of_moses_tokens() -> None:
    """The comma and the full stop are tokens of their own, though the text has them at words."""
    hypotheses = [line.replace("bellt", "schläft") for line in REFERENCES.lines]
    tokens = [
        [line.replace(",", " ,").replace(".", " .") for line in lines] for lines in (hypotheses, REFERENCES.lines)
    ]
    expected = sacrebleu.corpus_bleu(tokens[0], [tokens[1]], tokenize="none", lowercase=True, force=True).score
    score, signature = REFERENCES.tokenised_bleu(hypotheses)
    assert score == pytest.approx(expected)
    assert "tok:none" in signature
    assert "case:lc" in signature


def test_paired_bootstrap() -> None:
    perfect, one_wrong = list(REFERENCES.lines), [*REFERENCES.lines[:-1], "Die Katze schläft auf dem Sofa."]
    wrong = [line.replace("Hund", "Hase") for line in REFERENCES.lines]
    better, p_better, signature = paired_bootstrap(perfect, wrong, REFERENCES)
    metric = sacrebleu.BLEU(lowercase=True)
    assert better == pytest.approx(100 - metric.corpus_score(wrong, [REFERENCES.lines]).score)
    assert p_better == pytest.approx(1 / 1001), "no resample of 1,000 says otherwise"
    worse, _, _ = paired_bootstrap(wrong, perfect, REFERENCES)
    assert worse == -better
    # One sentence of 40 is not in (39/40)^40 = 36 % of all resamples.
    _, p_one, _ = paired_bootstrap(perfect, one_wrong, REFERENCES)
    assert p_one > 0.05
    assert "bs:1000" in signature


def test_level_2_is_compared_with_a_core_trained_alone(tmp_path: Path) -> None:
    """Alone it is the only network, and that has the name of the core."""
    row = Row("hierarchy", "ATS", ("core", "level2", "super"), {}, {"level2": "alone"})
    table = Table("toy", "Table T", toy_recipe(), (Row("alone", "Alone", ("core",)), row), None)
    records, perfect = Records(tmp_path, "toy"), list(REFERENCES.lines)
    wrong = [line.replace("Hund", "Hase") for line in perfect]
    for run, hypotheses in (
        (record("hierarchy", 1, core=20.0, level2=25.0, super=30.0), {"core": wrong, "level2": perfect}),
        (record("alone", 1, core=24.0), {"core": wrong}),
    ):
        for network, lines in hypotheses.items():
            run["networks"][network]["hypotheses_sha256"] = digest(lines)
        records.add_run(run | {"references_sha256": REFERENCES.digest}, hypotheses)
    compare(table, (1,), records, REFERENCES)
    difference = 100 - REFERENCES.metric().corpus_score(wrong, [perfect]).score
    assert layout.comparisons(table, records, (1,)).rows == [
        ["ATS", "Level 2", "Alone", f"{difference:+.2f} (p = 0.001)"]
    ]


# Cost.


UPDATES = {"standard": 3, "alone": 3, "ats": 25}
ATS = {"partitioned_linear_module_name": "PartitionedLinear", "small_ratio": 0.25, "alternate": True}


def toy_configs(folder: Path) -> Path:
    """A row file for each row of :func:`toy_table`, in a new folder."""
    folder.mkdir()
    arch = "".join(f"{line}\n" for line in _as_yaml(TINY_ARCH))
    training = """\
criterion: label_smoothed_cross_entropy
label_smoothing: 0.1
optimizer: adam_for_partitioned_model
lr: 0.003
lr_scheduler: inverse_sqrt
warmup_updates: 10
warmup_init_lr: 0.001
max_tokens: 800
save_interval_updates: 4
cpu: true
no_progress_bar: true
log_interval: 1
data_buffer_size: 0
num_workers: 0
"""
    for row, extra in (("standard", {"alternate": None}), ("alone", {"alternate": None, "max_level": 1}), ("ats", {})):
        own = {key: value for key, value in (ATS | extra).items() if value is not None}
        head = "task: translation_with_partitioned_model\n"
        head += "".join(f"{key}: {json.dumps(value)}\n" for key, value in own.items())
        head += f"max_update: {UPDATES[row]}\n"
        (folder / f"{row}.yaml").write_text(head + arch + training)
    return folder


def _as_yaml(arguments: list[str]) -> Iterator[str]:
    for at, argument in enumerate(arguments):
        if argument.startswith("--"):
            value = arguments[at + 1] if at + 1 < len(arguments) else "--"
            yield f"{argument[2:].replace('-', '_')}: {'true' if value.startswith('--') else value}"


def test_expected_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy_recipe(toy_configs(tmp_path / "toy"))
    # 0.85 of 800 tokens in sentences of 6
    cost = cost_of_config(recipe.config("ats"), 100, 680, 680 / 6)
    assert cost.costs[2].flops > cost.costs[1].flops > 0
    flops = 13 * cost.costs[2].flops + 12 * cost.costs[1].flops
    assert expect(recipe, "ats", {}) == Expectation(25, flops, None)
    monkeypatch.setattr(expectation, "cost_of_config", lambda *of: cost)
    # With another row on record, at its speed; with the row itself, as that was.
    runs = {("standard", 1): record("standard", 1, flops=2e9, seconds=4.0)}
    assert expect(recipe, "ats", runs) == Expectation(25, flops, pytest.approx(flops / 0.5e9))
    assert expect(recipe, "standard", runs) == Expectation(1900, 2_000_000_000, 4.0)
    path = recipe.config("ats")
    path.write_text(path.read_text().replace("max_update: 25", "max_epoch: 3"))
    assert expect(recipe, "ats", {}).updates == 3 * 6, "600 sentences of 6 are 5.3 updates"


def test_cost_of_networks_that_begin_later(tmp_path: Path) -> None:
    """Each level counts that some update trains, though the first do not."""
    config = toy_recipe(toy_configs(tmp_path / "toy")).config("ats")
    text = config.read_text()
    config.write_text(text.replace("alternate: true", "scheme: slimmable\nsuper_only_updates: 3"))
    slimmable = cost_of_config(config, 100, 680, 680 / 6)
    assert slimmable.flops(10) == 10 * slimmable.costs[2].flops + 7 * slimmable.costs[1].flops
    config.write_text(text.replace("alternate: true", "scheme: standard"))
    assert set(cost_of_config(config, 100, 680, 680 / 6).costs) == {2}, "nothing is asked of the core"


# The command.


@pytest.mark.parametrize("name", read_tables())
def test_dry_run_prints_the_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce_table, "expect", lambda *of: Expectation(10, 2 * 10**15, 60.0))
    table = read_tables()[name]
    options = ["--seeds", "4,5", "--threads", "3", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    assert reproduce_table.main([name, *options, "--dry-run", "--", "--fp16", "--update-freq", "2"]) == 0
    output = capsys.readouterr().out.splitlines()
    recipe = table.recipe.name
    data = {
        "iwslt14": "iwslt14",
        "wmt17": "wmt17",
        "multi30k": "multi30k_lowercase",
        "multi30k_strong": "multi30k_recipe",
    }
    assert [line for line in output if not line.startswith("#")] == [
        f"python scripts/train.py configs/{recipe}/{row.name}.yaml "
        f"runs/{data.get(recipe) or data[recipe.removesuffix('_strong')]}/data "
        f"--save-dir {tmp_path}/runs/{recipe}/{row.name}/seed{seed} --threads 3 --seed {seed} --fp16 --update-freq 2"
        for seed in (4, 5)
        for row in table.rows
    ]
    count = 2 * len(table.rows)
    assert output[-1] == (
        f"# together, {count} runs: {10 * count} updates, {2 * count} PFLOP, "
        f"about {60 * count:,} s at the speed of the recorded runs"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3c"], "invalid choice: '3c'"),
        (["1a", "--seeds", "1,x"], "argument --seeds: x is not allowed; allowed: a whole number from 1 up"),
        (["1a", "--rows", "fast"], "argument --rows: fast is not allowed; allowed: standard, low_rank_0.25_alone"),
        (["1a", "--seeds", "1,2,1"], "argument --seeds: 1,2,1 is not allowed; allowed: each seed once"),
        (["1a", "--"], "nothing comes after --"),
        (["1a", "--", "--fp16", "--seed=5"], "--seed after -- is not allowed: each run has its own"),
        (["1a", "--", "--save-dir", "runs"], "--save-dir after -- is not allowed"),
        (
            ["1a", "--data", "nowhere"],
            "--data is nowhere, which is not a folder; `scripts/prepare_iwslt14.sh` makes it",
        ),
    ],
)
def test_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        reproduce_table.main([*arguments[:1], "--results", str(tmp_path), *arguments[1:]])
    assert message in (capsys.readouterr().err + str(ended.value))
    assert list(tmp_path.iterdir()) == []


def test_data_of_other_languages(toy_data: Path, tmp_path: Path) -> None:
    """Their scores would stand beside the paper's."""
    with pytest.raises(SystemExit, match=r"which holds en→de; table 1a is of de→en, and `scripts/prepare_iwslt14\.sh`"):
        reproduce_table.main(["1a", "--data", str(toy_data), "--results", str(tmp_path), "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match="which holds no binarised data"):
        reproduce_table.main(["1a", "--data", str(tmp_path), "--results", str(tmp_path), "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


# From training to picture.


class Killed(BaseException):
    """Ends the program as a kill would, as far as its files are concerned."""


def train_and_wait(command: list[str], kill_at: int | None) -> int:
    """As scripts/train.py, in a process that need not import fairseq again; killed after so many updates."""
    config, data, *rest = command[2:]
    del rest[rest.index("--threads") : rest.index("--threads") + 2]
    log = Path(rest[rest.index("--save-dir") + 1]) / "train.log"
    options = options_of(yaml.safe_load(Path(config).read_text()), Path(config))
    process = start(["fairseq-train", data, "--user-dir", "fairseq_ats", *options, *rest, "--log-file", str(log)])
    while kill_at is not None and not (log.exists() and f"num_updates={kill_at}," in log.read_text()):
        assert process.returncode is None, process.output()[-4000:]
        time.sleep(0.005)
    if kill_at is not None:
        process.kill()
        raise Killed
    process.wait()
    return process.returncode


Reproduce = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def reproduce(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reproduce:
    """``reproduce("name", "--rows", "ats", kill_at=("ats", 5))``: the command, with runs and results of that name."""
    folder = tmp_path_factory.mktemp("table")
    tables = {"toy": toy_table(toy_recipe(toy_configs(folder / "toy")))}

    def reproduce(
        name: str, *options: str, kill_at: tuple[str, int] | None = None, fails_at: str | None = None
    ) -> SimpleNamespace:
        trained = []

        def train(command: list[str], console: Path, lock: int, environment: dict[str, str]) -> int:
            trained.append(Path(command[2]).stem)
            console.write_text("all that was said\nno room\n")
            if trained[-1] == fails_at:
                return 3
            return train_and_wait(command, kill_at[1] if kill_at and kill_at[0] == trained[-1] else None)

        runs, results = folder / name / "runs", folder / name / "results"
        arguments = ["toy", "--data", str(toy_data), "--runs", str(runs), "--results", str(results)]
        status = None
        with pytest.MonkeyPatch.context() as patch, nullcontext() if kill_at is None else pytest.raises(Killed):
            patch.setattr(reproduce_table, "read_tables", lambda: tables)
            patch.setattr(reproduce_table, "train", train)
            status = reproduce_table.main([*arguments, "--seeds", "1", "--threads", "1", *options])
        records = Records(results, "toy")
        return SimpleNamespace(status=status, trained=trained, runs=runs, results=results, records=records)

    return reproduce


@pytest.fixture(scope="module")
def whole(reproduce: Reproduce) -> SimpleNamespace:
    """A table that was made in one go."""
    return reproduce("whole")


def without_circumstances(records: Records) -> dict[tuple, Any]:
    """Runs without what depends on time, and on where they are kept."""
    return {
        key: {name: value for name, value in one.items() if name not in ("timing", "command")}
        for key, one in records.runs().items()
    }


def test_a_table_from_training_to_picture(whole: SimpleNamespace) -> None:
    assert (whole.status, whole.trained) == (0, ["standard", "alone", "ats"])
    runs = whole.records.runs()
    assert {key: list(line["networks"]) for key, line in runs.items()} == {
        ("standard", 1): ["super"],
        ("alone", 1): ["core"],
        ("ats", 1): ["core", "super"],
    }
    assert {key[0]: line["updates"] for key, line in runs.items()} == UPDATES
    levels = {int(level): flops for level, flops in runs["ats", 1]["flops_of_an_update"].items()}
    assert runs["ats", 1]["flops"] == 13 * levels[2] + 12 * levels[1]
    assert list(runs["alone", 1]["flops_of_an_update"]) == ["1"]
    networks = runs["ats", 1]["networks"]
    assert networks["super"]["parameters"] > networks["core"]["parameters"]
    assert networks["core"]["parameters"] == runs["alone", 1]["networks"]["core"]["parameters"]
    assert networks["super"]["signature"].startswith("nrefs:1|case:mixed")
    assert networks["super"]["checkpoint"] == "checkpoint_best.pt"
    assert networks["core"]["checkpoint"] == "checkpoint_best_core.pt"
    assert runs["ats", 1]["command"].startswith("python scripts/train.py ")
    assert set(whole.records.comparisons()) == {("ats", "core", 1), ("ats", "super", 1)}
    difference = networks["core"]["bleu"] - runs["alone", 1]["networks"]["core"]["bleu"]
    assert whole.records.comparisons()["ats", "core", 1]["difference"] == pytest.approx(difference)
    assert "not run" not in (whole.results / "toy.md").read_text()
    assert (whole.results / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_table_comes_to_the_same_result(
    whole: SimpleNamespace, reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the third row, between two checkpoints, and called again; then once more, with nothing to do."""
    killed = reproduce("stopped", kill_at=("ats", 5))
    run = Run(toy_recipe(), "ats", 1, killed.runs)
    assert run.state() == INTERRUPTED
    assert set(killed.records.runs()) <= {("standard", 1), ("alone", 1)}
    resumed = reproduce("stopped")
    assert (resumed.status, resumed.trained) == (0, ["ats"])
    assert run.state() == FINISHED
    assert without_circumstances(resumed.records) == without_circumstances(whole.records)
    assert len(resumed.records.runs()["ats", 1]["timing"]["resumed"]) == 1
    assert resumed.records.comparisons() == whole.records.comparisons()
    for name in ("ats.seed1.core.txt.gz", "ats.seed1.super.txt.gz", "standard.seed1.super.txt.gz"):
        hypotheses = [one.records.hypotheses_folder / name for one in (whole, resumed)]
        assert hypotheses[0].read_bytes() == hypotheses[1].read_bytes()
    for picture in ("toy.png", "toy.flops.png"):
        assert (whole.results / picture).read_bytes() == (resumed.results / picture).read_bytes()

    # The checkpoints are not needed any more, and nothing is done again.
    for path in resumed.runs.rglob("*.pt"):
        path.unlink()
    before = resumed.records.path.read_bytes()
    resumed.records.comparisons_path.unlink()
    again = reproduce("stopped")
    assert (again.status, again.trained, again.records.path.read_bytes()) == (0, [], before)
    assert again.records.comparisons() == whole.records.comparisons(), "also of runs that came from elsewhere"
    assert (
        f"all is recorded in {again.records.path}; --results DIR --runs DIR makes new runs" in capsys.readouterr().out
    )
    again = reproduce("stopped", "--again", "--rows", "ats")
    assert (again.status, again.trained, again.records.path.read_bytes()) == (1, [], before), "nothing to decode"


def test_runs_of_other_programs_are_taken_as_they_are(whole: SimpleNamespace, reproduce: Reproduce) -> None:
    """A folder that is finished, without a note of ours, and one that somebody is training: --finished-only."""
    runs = whole.runs.parents[1] / "adopted" / "runs" / "toy"
    shutil.copytree(whole.runs / "toy" / "alone", runs / "alone")
    (runs / "alone" / "seed1" / "started.json").write_text('{"commit": "abc", "command": "by hand"}')
    (runs / "ats" / "seed1").mkdir(parents=True)
    (runs / "ats" / "seed1" / "train.log").write_text("Start iterating over samples\n")
    adopted = reproduce("adopted", "--finished-only")
    assert (adopted.status, adopted.trained) == (0, [])
    (line,) = adopted.records.runs().values()
    assert (line["row"], line["commit"], line["command"]) == ("alone", "abc", "by hand")
    assert line["networks"] == whole.records.runs()["alone", 1]["networks"]
    assert "| ATS | - | not run | not run |" in (adopted.results / "toy.md").read_text().replace("0 of 1", "")


def test_a_row_that_fails_leaves_the_others_be(
    whole: SimpleNamespace, reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.runs / "toy" / "alone", whole.runs.parents[1] / "failing" / "runs" / "toy" / "alone")
    ats = Run(toy_recipe(), "ats", 1, whole.runs.parents[1] / "failing" / "runs")
    with ats.locked():
        failing = reproduce("failing", fails_at="standard")
    assert (failing.status, failing.trained) == (1, ["standard"])
    assert set(failing.records.runs()) == {("alone", 1)}
    error = capsys.readouterr().err
    assert "toy/standard seed 1: the training ended with status 3: no room" in error
    assert "toy/ats seed 1: another process is training it" in error


def test_averages_and_tuned_search(whole: SimpleNamespace, toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search whose validation set comes out best is that of the test set, both of the average."""
    searches = []

    def decode(networks: list[Any], loaded: list[Any], search: Any, batches: Any, device: str) -> None:
        (network,), (task,) = networks, [own for _, own in loaded]
        searches.append((search.beam, search.length_penalty))
        for batch in batches:
            for index, target in zip(batch["id"].tolist(), batch["target"], strict=True):
                is_right = searches[-1] == (3, 0.5) and index % 2
                network.hypotheses[index] = text_of(task, target) if is_right else "something else"

    monkeypatch.setattr(scoring, "decode", decode)
    recipe = toy_recipe(averaged_epochs=2, search=SearchChoices((1, 3), (0.5, 1.0)))
    run = whole.runs / "toy" / "ats" / "seed1"
    references, decoding = read_references(toy_data), Decoding("cpu", 8)
    scores, hypotheses = score_networks(run, recipe, toy_data, ("core",), references, decoding)
    assert searches == [(1, 0.5), (1, 1.0), (3, 0.5), (3, 1.0), (3, 0.5)]
    assert (scores["core"]["beam"], scores["core"]["length_penalty"]) == (3, 0.5)
    assert scores["core"]["checkpoint"] == "average.pt"
    right = [reference if i % 2 else "something else" for i, reference in enumerate(references.lines)]
    assert hypotheses["core"] == right
    assert scores["core"]["bleu"] == pytest.approx(sacrebleu.corpus_bleu(right, [references.lines]).score)
    assert scores["core"]["validation_bleu_of_search"] > 10

    last_two = sorted(run.glob("checkpoint[0-9].pt"))[-2:]
    expected = average_checkpoints([str(path) for path in last_two])["model"]
    average = load_checkpoint_to_cpu(str(run / "average.pt"))["model"]
    assert all(torch.equal(average[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="the table needs super"):
        score_networks(whole.runs / "toy/alone/seed1", recipe, toy_data, ("super",), references, decoding)


# Learning curves.


def test_learning_curves(whole: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = whole.runs / "toy"
    ats = learning_curves.read_run(runs / "ats" / "seed1")
    assert [(curve.metric, curve.label) for curve in ats.curves] == [
        ("loss", "ats/seed1 super"),
        ("loss", "ats/seed1 core"),
    ]
    validations = TrainingLog.read(runs / "ats" / "seed1" / "train.log").validations
    assert ats.curves[1].points == [(updates, point["core_loss"]) for updates, point in validations.items()]
    assert ats.flops(25) == whole.records.runs()["ats", 1]["flops"]
    standard = learning_curves.read_run(runs / "standard" / "seed1")
    assert [curve.label for curve in standard.curves] == ["standard/seed1 super"], "its core is not trained"

    only_log = tmp_path / "only_log"
    only_log.mkdir()
    log = (runs / "ats" / "seed1" / "train.log").read_text()
    (only_log / "train.log").write_text(log.replace("| core_loss ", "| bleu 7 | core_bleu 5 | core_loss "))
    learning_curves.main([*map(str, (runs / "ats/seed1", only_log)), "--output", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"{only_log} is drawn against updates only" in capsys.readouterr().out
    assert {curve.metric for curve in learning_curves.read_run(only_log).curves} == {"loss", "bleu"}
    capsys.readouterr()
    learning_curves.main([str(tmp_path), str(only_log), "--output", str(tmp_path / "one.png")])
    assert "left out:" in capsys.readouterr().out
    assert (tmp_path / "one.png").is_file()
    with pytest.raises(SystemExit, match="there is nothing to draw"):
        learning_curves.main([str(tmp_path), "--output", str(tmp_path / "none.png")])
    assert "has no train.log" in capsys.readouterr().out
    assert not (tmp_path / "none.png").exists()
