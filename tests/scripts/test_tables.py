"""Tables: logs, records, ledger, Markdown, dry run, and a toy table from training to page."""

from __future__ import annotations

import hashlib
import json
import re
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
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from matplotlib.axes import Axes

from fairseq_ats.checkpoints.average import average_checkpoints
from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cli.main import main as run_command
from fairseq_ats.cost.training import TrainingCost, cost_of_options
from fairseq_ats.inference.evaluation import text_of
from fairseq_ats.training.log_file import TrainingLog
from scripts.figures import learning_curves
from scripts.tables import flops_picture, layout, markdown, scoring
from scripts.tables import reproduce as command
from scripts.tables import runs as runs_module
from scripts.tables.comparison import compare, paired_bootstrap
from scripts.tables.description import Published, Recipe, Row, SearchChoices, Table, read_tables
from scripts.tables.plan import planned_cost
from scripts.tables.records import Records, digest
from scripts.tables.runs import FINISHED, INTERRUPTED, Run
from scripts.tables.scoring import Decoding, References, read_references, score_networks
from tests.fixtures import ROOT, TINY_ARCH
from tests.support.command_line import start
from tests.support.markdown import cells_of

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
    """Return a record as :func:`scripts.tables.measurement.measure` makes it, with few networks and round numbers."""
    networks = {
        network: {
            "tests": {
                "test": {
                    "bleu": value,
                    "signature": "nrefs:1",
                    "tokenised_bleu": value + 0.04,
                    "tokenised_signature": "sacremoses de, tok:none",
                    "references_sha256": "r",
                    "hypotheses_sha256": f"{row} {seed} {network}",
                }
            }
        }
        for network, value in bleu.items()
    }
    return {
        **{"row": row, "seed": seed, "versions": {"torch": "2"}, "updates": 1900, "flops": flops},
        "starts": [{"commit": "c0ffee", "command": "train", "options": [], "hardware": "one core"}],
        "networks": networks,
        "timing": {"train_seconds": seconds, "wall_seconds": seconds + 5},
    }


def of_network(record: dict[str, Any], network: str) -> dict[str, Any]:
    return record["networks"][network]["tests"]["test"]


def test_records_are_written_and_replaced(tmp_path: Path) -> None:
    records = Records(tmp_path / "results", "toy")
    assert records.read() == {}
    first = record("ats", 1, super=30.0, core=25.0)
    for network, lines in HYPOTHESES.items():
        of_network(first, network)["hypotheses_sha256"] = digest(lines)
    standard = record("standard", 1, super=31.0)
    records.write(first, HYPOTHESES)
    records.write(standard, {"super": ["x"]})
    assert records.read() == {("ats", 1): first, ("standard", 1): standard}
    assert (tmp_path / "results/toy/ats.seed1.json").is_file()
    folder = tmp_path / "results/hypotheses/toy"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {bytes_[4:8] for bytes_ in before.values()} == {bytes(4)}, "gzip's time, which would make other bytes"
    assert records.hypotheses(first, "super") == HYPOTHESES["super"]
    assert records.hypotheses(first, "core") == HYPOTHESES["core"]
    assert records.hypotheses(standard, "super") is None, "they are not those of the record"

    records.write(first | {"updates": 7}, HYPOTHESES)
    assert {key: one["updates"] for key, one in records.read().items()} == {("ats", 1): 7, ("standard", 1): 1900}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "ats.seed1.core.test.txt.gz").unlink()
    assert records.hypotheses(first, "core") is None


@pytest.mark.parametrize("name", ["multi30k", "multi30k_schemes", "multi30k_kinds"])
def test_tables_are_drawn_from_the_records(name: str) -> None:
    table, results = read_tables()[name], ROOT / "results/tables"
    page = markdown.render(table, Records(results, table.recipe.name), (1, 2, 3))
    assert page == (results / f"{name}.md").read_text()


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"row": "ats"}', "is no record of a run"),
        ('{"row": "ats", "se', "is no record of a run"),
        ("[1]", "is no record of a run"),
        ('{"row": "ats", "seed": 2}', "is the record of another run; its name must be ats.seed2.json"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, text: str, message: str) -> None:
    records = Records(tmp_path, "toy")
    records.write(record("ats", 1, super=1.0))
    (tmp_path / "toy/ats.seed3.json").write_text(text)
    with pytest.raises(ValueError, match=rf"toy/ats.seed3.json {message}"):
        records.read()


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


def table_of_needs(recipe: Recipe) -> Table:
    """A row that begins from the standard network and whose core learns its translations."""
    needs = {"init_from": "standard", "core_data": "standard"}
    warm = Row("warm", "Warm", ("core", "super"), {}, {"super": "standard"}, needs)
    return Table("needs", "Table N", recipe, (Row("standard", "Standard", ("super",)), warm), None)


def test_page_of_fixed_records(tmp_path: Path) -> None:
    """ATS with two seeds, the core alone with one, the standard row not run."""
    records, table = Records(tmp_path, "toy"), toy_table(toy_recipe())
    first = record("ats", 1, super=30.0, core=25.0)
    of_network(first, "core")["comparison"] = {
        **{"against": "alone", "difference": 1.0, "p_value": 0.012},
        "hypotheses_sha256": ["ats 1 core", "alone 1 core"],
    }
    for one in (
        first,
        record("ats", 2, super=31.0, core=26.5, flops=4e15, seconds=110.0),
        record("alone", 1, core=24.0, flops=1e15, seconds=30.0),
    ):
        records.write(one)
    page = markdown.render(table, records, (1, 2, 3))
    assert page.startswith("# Table T\n")
    assert cells_of(page) == [
        ["Model", "Sub-Network: paper", "Sub-Network: ours", "Full Network: paper", "Full Network: ours", "seeds"],
        ["Standard", "-", "-", "32.48 (0.32)", "not run", "0 of 3"],
        ["Alone", "22.10", "24.00", "-", "-", "1 of 3"],
        # sqrt((0.75² + 0.75²) / 1) = 1.06, sqrt(0.5² + 0.5²) = 0.71
        ["ATS", "-", "25.75 (1.06)", "-", "30.50 (0.71)", "2 of 3"],
        ["Model", "network", "against", "seed 1", "seed 2", "seed 3"],
        ["ATS", "Sub-Network", "Alone", "+1.00 (p = 0.012)", "not run", "not run"],
        ["ATS", "Full Network", "Standard", "not run", "not run", "not run"],
        ["Model", "PFLOP: joint", "separate", "ratio", "seconds: joint", "separate", "ratio"],
        ["ATS", "not run", "not run", "not run", "not run", "not run", "not run"],
    ]
    assert "differs from it by at most 0.04 in these runs." in page
    lines = page.split("\n")
    assert "- commit: c0ffee" in lines
    assert lines.count("- hardware: one core") == 1
    assert not any("options beside" in line for line in lines)

    records.write(record("standard", 1, super=32.0, flops=5e15, seconds=100.0))
    # Joint (3 + 4)/2 and (90 + 110)/2; separate 1 + 5 and 30 + 100.
    cells = ["ATS", "3.5", "6", "0.58", "100", "130"]
    assert layout.ledger(table, records.read())[1] == [[*cells, "-"]], "110 is far from 90"
    records.write(record("ats", 1, super=30.0, core=25.0, seconds=92.0))
    records.write(record("ats", 2, super=31.0, core=26.5, flops=4e15, seconds=108.0))
    assert layout.ledger(table, records.read())[1] == [[*cells, "0.77"]]
    assert layout.comparisons(table, records.read(), (1,))[1][1][3] == "not compared"
    elsewhere = record("standard", 1, super=32.0, flops=5e15)
    elsewhere["starts"] = [
        {"commit": "facade", "command": "train", "options": ["--fp16"], "hardware": "a GPU"},
        {"commit": "decade", "command": "train", "options": ["--amp"], "hardware": "two GPUs"},
    ]
    records.write(elsewhere)
    sources = markdown.render(table, records, (1, 2, 3)).split("\n")
    for options in ("--fp16", "--amp"):
        assert f"- options beside those of a row: standard: {options}" in sources
    for line in ("- hardware: a GPU", "- hardware: two GPUs", "- commit: c0ffee", "- commit: decade"):
        assert line in sources
    assert layout.ledger(table, records.read())[1][0][4:] == ["not on the same hardware", "-", "-"]


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
        records.write(one)
    flops_picture.draw(toy_table(toy_recipe()), records.read(), tmp_path / "picture.png")
    assert drawn == [(1, 24, None), (3.5, 25.75, pytest.approx(1.5 / 2**0.5)), (3.5, 30.5, pytest.approx(0.5**0.5))]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flops", "text"), [(2.4e13, "0.024"), (2.06e15, "2.06"), (26.74e15, "26.7"), (1.0123e18, "1,012")]
)
def test_pflop(flops: float, text: str) -> None:
    assert layout.pflop(flops) == text


def test_a_comparison_of_other_hypotheses_does_not_count(tmp_path: Path) -> None:
    records = Records(tmp_path, "toy")
    ats = record("ats", 1, super=30.0, core=25.0)
    comparison = {"against": "alone", "difference": 1.0, "p_value": 0.5}
    of_network(ats, "core")["comparison"] = comparison | {"hypotheses_sha256": ["ats 1 core", "of an older run"]}
    records.write(ats)
    records.write(record("alone", 1, core=24.0))
    assert layout.comparisons(toy_table(toy_recipe()), records.read(), (1,))[1][0][3] == "not compared"


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
            of_network(run, network).update(hypotheses_sha256=digest(lines), references_sha256=REFERENCES.digest)
        records.write(run, hypotheses)
    compare(table, records, REFERENCES)
    difference = 100 - REFERENCES.metric().corpus_score(wrong, [perfect]).score
    assert layout.comparisons(table, records.read(), (1,))[1] == [
        ["ATS", "Level 2", "Alone", f"{difference:+.2f} (p = 0.001)"]
    ]


# Cost.


UPDATES = {"standard": 3, "alone": 3, "ats": 25}
SMALL_WIDTH = {"partitioned_linear_module_name": "PartitionedLinear", "small_ratio": 0.25}
ATS = SMALL_WIDTH | {"alternate": True, "max_update": 25}


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
    (folder / "base.yaml").write_text("task: translation_with_partitioned_model\nmax_update: 3\n" + arch + training)
    for row, own in (
        ("standard", SMALL_WIDTH),
        ("alone", SMALL_WIDTH | {"max_level": 1}),
        ("ats", ATS),
        ("warm", ATS | {"max_update": 2}),
    ):
        lines = {"base": "base.yaml"} | own
        (folder / f"{row}.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items()))
    return folder


def _as_yaml(arguments: list[str]) -> Iterator[str]:
    for at, argument in enumerate(arguments):
        if argument.startswith("--"):
            value = arguments[at + 1] if at + 1 < len(arguments) else "--"
            yield f"{argument[2:].replace('-', '_')}: {'true' if value.startswith('--') else value}"


def test_planned_cost(tmp_path: Path) -> None:
    recipe = toy_recipe(toy_configs(tmp_path / "toy"))
    # 0.85 of 800 tokens in sentences of 6
    cost = cost_of(recipe.config("ats"))
    assert cost.costs[2].flops > cost.costs[1].flops > 0
    flops = 13 * cost.costs[2].flops + 12 * cost.costs[1].flops
    assert planned_cost(recipe, "ats") == (25, flops)
    of_two = cost_of(recipe.config("ats"), tokens=2 * 680)  # an update has a batch of each worker
    assert planned_cost(recipe, "ats", workers=2) == (25, of_two.flops(25))
    path = recipe.config("ats")
    path.write_text(path.read_text().replace("max_update: 25", "max_epoch: 3\nmax_update: null"))
    assert planned_cost(recipe, "ats")[0] == 3 * 6, "600 sentences of 6 are 5.3 updates"


def cost_of(config: Path, tokens: int = 680) -> TrainingCost:
    return cost_of_options(options_of(read_config(config), config), 100, tokens, tokens / 6)


def test_cost_of_networks_that_begin_later(tmp_path: Path) -> None:
    """Each level counts that some update trains, though the first do not."""
    config = toy_recipe(toy_configs(tmp_path / "toy")).config("ats")
    text = config.read_text()
    config.write_text(text.replace("alternate: true", "scheme: slimmable\nsuper_only_updates: 3"))
    slimmable = cost_of(config)
    assert slimmable.flops(10) == 10 * slimmable.costs[2].flops + 7 * slimmable.costs[1].flops
    config.write_text(text.replace("alternate: true", "scheme: standard"))
    assert set(cost_of(config).costs) == {2}, "nothing is asked of the core"


# The command.


@pytest.mark.parametrize("name", read_tables())
def test_dry_run_prints_the_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "planned_cost", lambda *of: (10, 2 * 10**15))
    table = read_tables()[name]
    options = ["--seeds", "4,5", "--threads", "3", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path)]
    assert command.main([name, *options, "--dry-run", "--device", "cuda", "--", "--fp16", "--update-freq", "2"]) == 0
    output = capsys.readouterr().out.splitlines()
    recipe = table.recipe.name
    data = {
        "iwslt14": "iwslt14",
        "wmt17": "wmt17",
        "multi30k": "multi30k_lowercase",
        "multi30k_kinds": "multi30k_lowercase",
        "multi30k_converged": "multi30k_lowercase",
        "multi30k_half_hour": "multi30k_lowercase",
        "multi30k_weight_decay": "multi30k_lowercase",
        "multi30k_strong": "multi30k_recipe",
    }
    folder = f"runs/{data.get(recipe) or data[recipe.removesuffix('_strong')]}/data"

    def of_source(row: Row, key: str, seed: int, file: str) -> str | None:
        return f"{tmp_path}/runs/{recipe}/{row.needs[key]}/seed{seed}/{file}" if key in row.needs else None

    expected = []
    for seed in (4, 5):
        for row in table.rows:
            line = "fairseq-ats launch --workers 2 --threads 3".split() if row.name == "ist_2_local" else []
            line += ["fairseq-ats", "train", f"configs/{recipe}/{row.name}.yaml"]
            line += [of_source(row, "data", seed, "translated") or folder]
            line += ["--save-dir", f"{tmp_path}/runs/{recipe}/{row.name}/seed{seed}", "--threads", "3"]
            line += ["--seed", str(seed), "--device", "cuda"]
            for key, file in (("init_from", "stock.pt"), ("core_data", "translated")):
                given = of_source(row, key, seed, file)
                line += [f"--{key.replace('_', '-')}", given] if given else []
            expected.append(" ".join([*line, "--fp16", "--update-freq", "2"]))
    trainings = "fairseq-ats train", "fairseq-ats launch"
    assert [line for line in output if line.startswith(trainings)] == expected
    others = [line for line in output if not line.startswith(("#", *trainings))]
    assert len(others) == len(set(others)), "what several rows need is made once"
    assert bool(others) == any(row.needs for row in table.rows)
    count = 2 * len(table.rows)
    assert output[-1] == f"# together, {count} runs: {2 * count} PFLOP"
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
        (["1a", "--device", "cuda"], "argument --device: cuda is not allowed, because torch finds no GPU"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments[:1], "--results", str(tmp_path), *arguments[1:]])
    assert message in (capsys.readouterr().err + str(ended.value))
    assert list(tmp_path.iterdir()) == []


def test_data_of_other_languages(toy_data: Path, tmp_path: Path) -> None:
    """Their scores would stand beside the paper's."""
    with pytest.raises(SystemExit, match=r"which holds en→de; table 1a is of de→en, and `scripts/prepare_iwslt14\.sh`"):
        command.main(["1a", "--data", str(toy_data), "--results", str(tmp_path), "--runs", str(tmp_path)])
    with pytest.raises(SystemExit, match="which holds no binarised data"):
        command.main(["1a", "--data", str(tmp_path), "--results", str(tmp_path), "--runs", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


# From training to picture.


class Killed(BaseException):
    """Ends the program as a kill would, as far as its files are concerned."""


def train_and_wait(command: list[str], kill_at: int | None) -> int:
    """As ``fairseq-ats train``, in a process that need not import fairseq again; killed after so many updates."""
    config, data, *rest = command[2:]
    del rest[rest.index("--threads") : rest.index("--threads") + 2]
    log = Path(rest[rest.index("--save-dir") + 1]) / "train.log"
    options = options_of(read_config(Path(config)), Path(config))
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
    recipe = toy_recipe(toy_configs(folder / "toy"))
    tables = {"toy": toy_table(recipe), "needs": table_of_needs(recipe)}

    def reproduce(
        name: str,
        *options: str,
        kill_at: tuple[str, int] | None = None,
        fails_at: str | None = None,
        table: str = "toy",
    ) -> SimpleNamespace:
        trained = []

        def train(line: list[str], console: Path, lock: int) -> int:
            if line[1] != "train":
                run_command(line[1:])
                return 0
            trained.append(Path(line[2]).stem)
            console.write_text("all that was said\nno room\n")
            if trained[-1] == fails_at:
                return 3
            return train_and_wait(line, kill_at[1] if kill_at and kill_at[0] == trained[-1] else None)

        runs, results = folder / name / "runs", folder / name / "results"
        arguments = [table, "--data", str(toy_data), "--runs", str(runs), "--results", str(results)]
        status = None
        with pytest.MonkeyPatch.context() as patch, nullcontext() if kill_at is None else pytest.raises(Killed):
            patch.setattr(command, "read_tables", lambda: tables)
            patch.setattr(command, "train", train)
            status = command.main([*arguments, "--seeds", "1", "--threads", "1", *options])
        records = Records(results, "toy")
        return SimpleNamespace(status=status, trained=trained, runs=runs, results=results, records=records)

    return reproduce


@pytest.fixture(scope="module")
def whole(reproduce: Reproduce) -> SimpleNamespace:
    """A table that was made in one go."""
    return reproduce("whole")


def without_circumstances(records: Records) -> dict[tuple, Any]:
    """Return runs without what depends on time, and on where they are kept."""
    return {
        key: {name: value for name, value in one.items() if name not in ("timing", "starts")}
        for key, one in records.read().items()
    }


def test_a_table_from_training_to_page(whole: SimpleNamespace) -> None:
    assert (whole.status, whole.trained) == (0, ["standard", "alone", "ats"])
    runs = whole.records.read()
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
    assert of_network(runs["ats", 1], "super")["signature"].startswith("nrefs:1|case:mixed")
    assert networks["super"]["checkpoint"] == "checkpoint_best.pt"
    assert networks["core"]["checkpoint"] == "checkpoint_best_core.pt"
    assert runs["ats", 1]["starts"][0]["command"].startswith("fairseq-ats train ")
    scores = {key: of_network(runs[key, 1], "core") for key in ("ats", "alone")}
    difference = scores["ats"]["bleu"] - scores["alone"]["bleu"]
    assert scores["ats"]["comparison"]["difference"] == pytest.approx(difference)
    assert "comparison" in of_network(runs["ats", 1], "super")
    assert "not run" not in (whole.results / "toy.md").read_text()
    assert (whole.results / "toy.flops.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_table_comes_to_the_same_result(
    whole: SimpleNamespace, reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the third row, between two checkpoints, and called again; then once more, with nothing to do."""
    killed = reproduce("stopped", kill_at=("ats", 5))
    run = Run(toy_recipe(), "ats", 1, killed.runs)
    assert run.state() == INTERRUPTED
    assert set(killed.records.read()) <= {("standard", 1), ("alone", 1)}
    resumed = reproduce("stopped")
    assert (resumed.status, resumed.trained) == (0, ["ats"])
    assert run.state() == FINISHED
    assert without_circumstances(resumed.records) == without_circumstances(whole.records)
    assert len(resumed.records.read()["ats", 1]["starts"]) == 2
    for name in ("ats.seed1.core", "ats.seed1.super", "standard.seed1.super"):
        hypotheses = [one.results / f"hypotheses/toy/{name}.test.txt.gz" for one in (whole, resumed)]
        assert hypotheses[0].read_bytes() == hypotheses[1].read_bytes()
    assert (whole.results / "toy.flops.png").read_bytes() == (resumed.results / "toy.flops.png").read_bytes()

    # The checkpoints are not needed any more, and nothing is done again.
    for path in resumed.runs.rglob("*.pt"):
        path.unlink()
    before = resumed.records.read()
    ats = resumed.records.read()["ats", 1]
    for network in ("core", "super"):
        del of_network(ats, network)["comparison"]
    resumed.records.write(ats)
    again = reproduce("stopped")
    assert (again.status, again.trained) == (0, [])
    assert again.records.read() == before, "what is recorded is compared, also if it came from elsewhere"
    assert f"all is recorded in {again.results}/toy; --results DIR --runs DIR makes" in capsys.readouterr().out
    again = reproduce("stopped", "--again", "--rows", "ats")
    assert (again.status, again.trained, again.records.read()) == (1, [], before), "nothing to decode"


def test_runs_of_other_programs_are_taken_as_they_are(whole: SimpleNamespace, reproduce: Reproduce) -> None:
    """A folder that is finished, without a note of ours, and one that somebody is training: --finished-only."""
    runs = whole.runs.parents[1] / "adopted" / "runs" / "toy"
    shutil.copytree(whole.runs / "toy" / "alone", runs / "alone")
    (runs / "alone" / "seed1" / "starts.jsonl").unlink()
    (runs / "ats" / "seed1").mkdir(parents=True)
    (runs / "ats" / "seed1" / "train.log").write_text("Start iterating over samples\n")
    adopted = reproduce("adopted", "--finished-only")
    assert (adopted.status, adopted.trained) == (0, [])
    (one,) = adopted.records.read().values()
    assert (one["row"], one["starts"][0]["commit"]) == ("alone", None)
    assert one["starts"][0]["hardware"] == whole.records.read()["alone", 1]["starts"][0]["hardware"]
    assert one["networks"] == whole.records.read()["alone", 1]["networks"]
    assert ["ATS", "-", "not run", "-", "not run", "0 of 1"] in cells_of((adopted.results / "toy.md").read_text())


def test_a_row_that_needs_another(
    whole: SimpleNamespace, reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused where the other run is not there; else made by the commands, trained on, and noted."""
    refused = reproduce("needs", "--rows", "warm", table="needs")
    assert (refused.status, refused.trained) == (1, [])
    assert "toy/warm seed 1: it needs toy/standard seed 1, which is not started in" in capsys.readouterr().err
    source = refused.runs / "toy/standard/seed1"
    shutil.copytree(whole.runs / "toy/standard/seed1", source)
    without = source.parents[1] / "warm/seed1"
    shutil.copytree(source, without)
    refused = reproduce("needs", "--rows", "warm", table="needs")
    assert (refused.status, refused.trained, refused.records.read()) == (1, [], {})
    said = "toy/warm seed 1: it was begun without what it needs of other runs; move .*/toy/warm/seed1 away"
    assert re.search(said, capsys.readouterr().err)
    shutil.rmtree(without)
    made = reproduce("needs", "--rows", "warm", table="needs")
    assert (made.status, made.trained) == (0, ["warm"])
    (one,) = made.records.read().values()
    stamps = {"init_from": source / "stock.pt", "core_data": source / "translated" / "binarised.json"}
    assert one["starts"][0]["needs"] == {
        key: {"row": "standard", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for key, path in stamps.items()
    }
    assert f"--init-from {source}/stock.pt --core-data {source}/translated" in one["starts"][0]["command"]
    options = load_checkpoint_to_cpu(str(made.runs / "toy/warm/seed1/checkpoint_last.pt"))["cfg"]["task"]
    assert (options["init_from"], options["core_data"]) == (f"{source}/stock.pt", f"{source}/translated")
    stock, trained = (
        load_checkpoint_to_cpu(str(path))["model"] for path in (source / "stock.pt", source / "checkpoint_best.pt")
    )
    assert torch.equal(stock["encoder.embed_tokens.weight"], trained["encoder.embed_tokens.weight"])
    curve = made.records.curve(one)
    assert curve[-1]["updates"] == 2
    assert curve[-1]["flops"] == one["flops"]
    assert curve[-1].keys() == {"updates", "flops", "loss", "core_loss"}


def test_a_row_that_fails_leaves_the_others_be(
    whole: SimpleNamespace, reproduce: Reproduce, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.runs / "toy" / "alone", whole.runs.parents[1] / "failing" / "runs" / "toy" / "alone")
    ats = Run(toy_recipe(), "ats", 1, whole.runs.parents[1] / "failing" / "runs")
    with ats.locked():
        failing = reproduce("failing", fails_at="standard")
    assert (failing.status, failing.trained) == (1, ["standard"])
    assert set(failing.records.read()) == {("alone", 1)}
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
    assert scores["core"]["tests"]["test"]["bleu"] == pytest.approx(
        sacrebleu.corpus_bleu(right, [references.lines]).score
    )
    assert scores["core"]["validation_bleu_of_search"] > 10

    # The run ended within an epoch.
    last_two = [sorted(run.glob("checkpoint[0-9].pt"))[-1], run / "checkpoint_last.pt"]
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
    assert ats.flops(25) == whole.records.read()["ats", 1]["flops"]
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
