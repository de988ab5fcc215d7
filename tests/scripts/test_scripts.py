"""The scripts: what they print, and how they refuse bad input."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_ats.cli.binarise import main as binarise
from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cli.environment import CPU_ENVIRONMENT
from fairseq_ats.cli.evaluate import main as evaluate
from fairseq_ats.cli.train import main as train_command
from fairseq_ats.cli.yaml_file import read_yaml
from fairseq_ats.data.binarise import _Build
from fairseq_ats.data.lines import raw_references
from fairseq_ats.options.values import Options
from fairseq_ats.translate import Translator
from tests import STAND_INS
from tests.fixtures import OUR_TASK, ROOT, TINY_ARCH
from tests.support.command_line import start, train
from tests.support.forking import fork_server
from tests.support.markdown import cells_of

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def script(name: str, *arguments: object, fails: bool = False) -> str:
    """What a command prints; it has the environment for which it would otherwise start itself again."""
    command = [name] if name.startswith("scripts.") else ["fairseq_ats.cli", name]
    process = start(["-m", *command, *map(str, arguments)], **CPU_ENVIRONMENT, OMP_NUM_THREADS="1")
    output = process.wait()
    assert (process.returncode != 0) == fails, output[-4000:]
    return output


def said_by(main: Callable[..., object], *arguments: object, fails: bool = False) -> str:
    """What a command prints that is called in this process."""
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        if fails:
            with pytest.raises(SystemExit):
                main([*map(str, arguments)])
        else:
            main([*map(str, arguments)])
    return said.getvalue()


def raw_text(folder: Path, lines: int = 200) -> Path:
    folder.mkdir()
    for split in ("train", "valid", "test"):
        for language in ("en", "de"):
            text = "".join(f"{language} sentence {i} of {split}\n" for i in range(lines))
            (folder / f"{split}.{language}").write_text(text)
    return folder


@pytest.mark.usefixtures("quick_preprocess")
def test_binarise_is_done_once(tmp_path: Path) -> None:
    raw, data = raw_text(tmp_path / "raw with a space"), tmp_path / "out" / "data"
    options = ["--source", "en", "--target", "de", "--vocabulary", "60"]
    assert "wrote" in said_by(binarise, raw, data, *options)
    before = (data / "train.en-de.en.bin").stat().st_mtime_ns
    assert "is up to date" in said_by(binarise, raw, data, *options)
    assert (data / "train.en-de.en.bin").stat().st_mtime_ns == before

    (raw / "train.en").write_text((raw / "train.en").read_text().replace("sentence", "phrase"))
    assert "wrote" in said_by(binarise, raw, data, *options)
    assert (data / "train.en-de.en.bin").stat().st_mtime_ns != before
    assert (data / "test.de").read_text() == (raw / "test.de").read_text()


def test_binarise_keeps_odd_lines_in_step(tmp_path: Path) -> None:
    """Carriage returns and Unicode's line separators inside a sentence, and no newline at the end of a file."""
    raw, data = raw_text(tmp_path / "raw"), tmp_path / "data"
    odd = "one\rtwo\u2028three\x85four"
    (raw / "test.en").write_bytes(f"{odd}\nlast".encode())
    (raw / "test.de").write_bytes(b"eins\r\nletzter\r\n")
    script("binarise", raw, data, "--source", "en", "--target", "de", "--vocabulary", "100")
    assert (data / "test.de").read_bytes() == b"eins\nletzter\n"
    log = (data / "preprocess.log").read_text()
    assert log.count("test.en: 2 sents") == log.count("test.de: 2 sents") == 1


def test_binarise_deletes_nothing_that_it_did_not_write(tmp_path: Path) -> None:
    raw = raw_text(tmp_path / "raw")
    output = said_by(binarise, raw, raw, "--source", "en", "--target", "de", "--vocabulary", "60", fails=True)
    assert "holds files that this command did not write" in output
    assert len(list(raw.iterdir())) == 6


@pytest.mark.parametrize("fault", ["missing", "lines", "empty", "vocabulary", "encoding", "languages"])
def test_binarise_refuses(tmp_path: Path, fault: str) -> None:
    raw, data = raw_text(tmp_path / "raw"), tmp_path / "data"
    vocabulary, message = "60", ""
    if fault == "missing":
        (raw / "valid.de").unlink()
        message = f"{raw / 'valid.de'} is missing"
    elif fault == "lines":
        (raw / "test.de").write_text("one line\n")
        message = "test.en has 200 lines and"
    elif fault == "empty":
        for language in ("en", "de"):
            (raw / f"train.{language}").write_text("")
        message = f"{raw / 'train.en'} and {raw / 'train.de'} are empty"
    elif fault == "encoding":
        (raw / "train.de").write_bytes("Büsche\n".encode("latin-1") * 200)
        message = "train.de is not UTF-8"
    elif fault == "languages":
        message = "--source and --target are both de; they must differ"
    else:
        vocabulary, message = "100000", "--vocabulary is 100000, which sentencepiece refuses"
    source = "de" if fault == "languages" else "en"
    options = ["--source", source, "--target", "de", "--vocabulary", vocabulary]
    assert message in said_by(binarise, raw, data, *options, fails=True)
    assert list(tmp_path.iterdir()) == [raw], "something was left behind"


def blank_out(path: Path, every: int, blank: str = "") -> None:
    """Make line 0, ``every``, 2·``every``, ... blank."""
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{blank if i % every == 0 else line}\n" for i, line in enumerate(lines)))


def test_blank_lines_are_counted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = raw_text(tmp_path / "raw")
    blank_out(raw / "train.de", 3)
    blank_out(raw / "test.de", 10, " \u3000\u200b\t")
    monkeypatch.setattr(_Build, "run", lambda *arguments: None)
    options = [str(raw), str(tmp_path / "data"), "--source", "en", "--target", "de"]
    binarise(options)
    said = capsys.readouterr().out
    assert f"{raw}/train.de: 67 of 200 lines are blank; their pairs are kept; --longest and --ratio of" in said
    assert f"{raw}/test.de: 20 of 200 lines are blank; they are kept\n" in said
    assert said.count("lines are blank") == 2
    binarise([*options, "--longest", "100", "--ratio", "9"])
    assert f"{raw}/train.de: 67 of 200 lines are blank; their pairs are left out\n" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["test.de", "train.en"])
def test_a_blank_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str) -> None:
    raw = raw_text(tmp_path / "raw")
    blank_out(raw / file, 1, "\u00a0\ufeff")
    with pytest.raises(SystemExit):
        binarise([str(raw), str(tmp_path / "data"), "--source", "en", "--target", "de"])
    assert f"{raw}/{file} is blank: nothing is in any of its 200 lines" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [raw]


def test_blank_references_are_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.de").write_text("eins\n\n \nvier\n")
    assert raw_references(tmp_path, "de") == ["eins", "", " ", "vier"]
    assert capsys.readouterr().out == f"{tmp_path}/test.de: 2 of 4 references are blank\n"
    (tmp_path / "test.de").write_text("\n" * 20)
    with pytest.raises(ValueError, match="is blank: nothing is in any of its 20 lines"):
        raw_references(tmp_path, "de")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_fairseqs_options(config: Path, parse: Callable[..., Any]) -> None:
    """fairseq parses the options of each file, whose head says how to launch it."""
    assert f"fairseq-ats train configs/{config.name}" in config.read_text().split("\n")[1]
    options = read_config(config)
    cfg = parse(arch=options_of(options, config), training=[])
    assert cfg.task._name == options["task"]
    if options["task"] == OUR_TASK:
        assert cfg.task.small_ratio == str(options["small_ratio"])
        assert Options(cfg.task).scheme.name == options.get(
            "scheme", "alternate" if options.get("alternate") else "standard"
        )
    assert cfg.optimization.lr == [options["lr"]]
    for name in ("encoder_layers", "width"):
        assert getattr(cfg.model, name, None) == options.get(name)


def test_train_passes_options_on(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("arch: transformer\n")
    (tmp_path / "c.yaml").write_text("base: base.yaml\ncpu: true\nadam_betas: (0.9, 0.98)\neval_bleu_args: {beam: 4}\n")
    arguments = (tmp_path / "c.yaml", "data", "--save-dir", "run", "--dry-run", "--small-ratio", "0.5")
    command = said_by(train_command, *arguments)
    assert "--arch transformer --cpu --adam-betas '(0.9, 0.98)' --eval-bleu-args '{\"beam\": 4}'" in command
    assert command.rstrip().endswith("--small-ratio 0.5")
    assert "OMP_NUM_THREADS=" in command


@pytest.mark.parametrize("file", ["cpu: true\n", ""])
def test_train_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """--device overrides the file; without a GPU the command says so, where fairseq would take the CPU."""
    (tmp_path / "c.yaml").write_text(f"arch: transformer\n{file}")
    arguments = (tmp_path / "c.yaml", "data", "--save-dir", tmp_path / "run", "--dry-run", "--device")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "--cpu" in said_by(train_command, *arguments, "cpu").split()
    message = "argument --device: cuda is not allowed, because torch finds no GPU; allowed: cpu"
    assert message in said_by(train_command, *arguments, "cuda", fails=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "--cpu" not in said_by(train_command, *arguments, "cuda").split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu: false", "c.yaml: cpu is false; leave it out"),
        ("cpu:", "c.yaml: cpu is empty; leave it out"),
        ("- a list", "must hold fairseq's options"),
        ("on: 1", "c.yaml: YAML reads a key as True, which is not the name of an option"),
        (
            "cpu: true\ntarget_lang: no",
            'c.yaml, line 2: no means false in YAML; if it is a word, write it in quotes ("no")',
        ),
    ],
)
def test_train_refuses(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    rest = ("data", "--save-dir", tmp_path / "run")
    assert message in said_by(train_command, tmp_path / "c.yaml", *rest, "--dry-run", fails=True)
    assert "is not a file" in said_by(train_command, tmp_path / "no.yaml", *rest, fails=True)


def test_yaml_values_are_as_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    texts = ["3:1", "010", "0x10", "1_000", "2020-01-01", "2020-99-99 1:2", "1.2.3", "1e", "transformer", "(0.9, 0.98)"]
    numbers = {"12": 12, "-1": -1, "0": 0, "0.5": 0.5, ".5": 0.5, "1.0e-9": 1e-9, "1e-9": 1e-9}
    others = {
        "true": True,
        "yes": True,
        "on": True,
        "false": False,
        "~": None,
        '"no"': "no",
        "'3'": "3",
        "[no1, 2]": ["no1", 2],
    }
    for written, value in (dict(zip(texts, texts, strict=True)) | numbers | others).items():
        path.write_text(f"key: {written}\n")
        assert read_yaml(path) == {"key": value}
        assert type(read_yaml(path)["key"]) is type(value)
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read_yaml(path)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: no", 2, "no means false in YAML"),
        ("a:\n  - en\n  - NO", 3, 'write it in quotes ("NO")'),
        ("a: {b: off}", 1, "off means false"),
        ("a: 1\n\tb: 2", 2, "YAML wants spaces here, and no tab"),
        ("a: 1\nc: ü\nb: 2".encode("latin-1"), 2, "not UTF-8"),
        ("lr: 1\nb: 2\nlr: 3", 3, "lr is given a second time; the first is in line 1"),
        ("a: {b: 1, b: 2}", 1, "b is given a second time"),
        ("a: 1\nb: \x07", 2, "special characters are not allowed"),
        ("a: b: c", 1, "mapping values are not allowed here"),
        ("a: !!python/name:os.system x", 1, "could not determine a constructor"),
    ],
)
def test_yaml_faults_name_file_and_line(tmp_path: Path, text: str | bytes, line: int, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}: ")) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluate_scores_both_networks(toy_data: Path, tmp_path: Path) -> None:
    train(toy_data, tmp_path, 4, "--alternate", "--small-ratio", "0.25")
    table = script("evaluate", toy_data, tmp_path, "--beam", "2", "--threads", "1")
    assert "sacreBLEU nrefs:1|case:mixed" in table
    rows = dict(re.findall(r"^\| (super|core) \| ([\d.]+) \|", table, re.MULTILINE))
    assert set(rows) == {"super", "core"}
    full, core = json.loads((tmp_path / "evaluation.json").read_text())["networks"]
    assert full["parameters"] > core["parameters"] > 0
    assert (full["level"], core["level"]) == (2, 1)
    for name in rows:
        assert len((tmp_path / f"test.{name}.txt").read_text().splitlines()) == 40
    assert "has no checkpoint_best.pt" in said_by(evaluate, toy_data, tmp_path / "none", fails=True)


TINY_BENCHMARK = [
    *("--arch", "transformer", "--length", "8", "--vocabulary", "50", "--rounds", "2", "--warm-up", "1"),
    "--arch-options",
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2",
]


def test_benchmark_of_training() -> None:
    options = [*TINY_BENCHMARK, "--tokens", "40", "--precision", "bfloat16", "--core-options", "--core-vo width:0.5"]
    table = script("scripts.benchmarks.training", *options)
    assert "r = 0.03125 --core-vo width:0.5; 2 rounds" in table
    _, *rows = cells_of(table)
    flops = {row[0]: float(row[4]) for row in rows}
    memory = {row[0]: float(row[7]) for row in rows}
    assert flops["stock fairseq"] == memory["stock fairseq"] == 1.0
    assert flops["low rank: core update"] == flops["low-rank core alone"] < 1
    assert flops["small width: core update"] == flops["small-width core alone"] < 1
    assert memory["small-width core alone"] < memory["small width: super update"]
    assert flops["low rank: slimmable"] > flops["low rank: super update"]
    assert len(flops) == 12


def test_benchmark_of_schemes() -> None:
    table = script("scripts.benchmarks.schemes", *TINY_BENCHMARK, "--tokens", "40")
    _, *rows = cells_of(table)
    flops = {row[0]: float(row[2]) for row in rows}
    assert flops["standard"] == flops['meprop {"kind": "exact", "ratio": 0.1}'] == 1.0
    assert flops['dropout {"keep_prob": 0.25}'] < flops['dropout {"keep_prob": 0.5}'] < 1
    assert flops['extragradient {"step": 0.01}'] == 2
    assert len(flops) == 11
    assert all(float(row[1].split()[0]) > 0 for row in rows)


def test_benchmark_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Of trainings with a quarter of a million parameters, by what they log."""
    from scripts.benchmarks import workers

    commands = []

    def trained(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        logged = [{"wps": "9000"}, {"wps": "100"}, {"wps": "300"}, {"wps": "200"}]
        if "subnets.yaml" in " ".join(command):
            logged = [{"wps": "300", "sent_mb": sent} for sent in ("0.4", "0.8", "0.4", "0.4")]
        lines = ["| num. shared model params: 1,000,000 (num. trained: 250,000)"]
        lines += [f"| INFO | train_inner | {json.dumps(line)}" for line in logged]
        return subprocess.CompletedProcess(command, 0, "\n".join(lines))

    monkeypatch.setattr(workers.subprocess, "run", trained)
    configs = [str(tmp_path / name) for name in ("standard.yaml", "subnets.yaml")]
    options = ["--ways", "1x1", "2x1", "--rounds", "1", "--max-tokens", "7"]
    monkeypatch.setattr("sys.argv", ["workers", *configs, str(tmp_path), *options])
    workers.main()
    _, *rows = cells_of(capsys.readouterr().out)
    assert [[row[1], row[2], row[3].split()[0], row[4]] for row in rows if row[0] == "standard"] == [
        ["1 worker, 1 thread", "200", "1.00", "0.00"],
        ["2 workers, 1 thread each", "200", "1.00", "1.00"],  # a float32 of each, half of it twice
    ]
    assert rows[-1][1:3] == ["2 workers, 1 thread each", "300"]
    assert (rows[-1][3].split()[0], rows[-1][4]) == ("1.50", "0.50")
    frequencies = [command[command.index("--update-freq") + 1] for command in commands]
    assert frequencies == ["2", "1", "2", "1"], "as many batches in an update"
    assert all(command[command.index("--max-tokens") + 1] == "7" for command in commands)


def test_benchmark_of_decoding() -> None:
    table = script("scripts.benchmarks.decoding", *TINY_BENCHMARK, "--beams", "2", "--batch-sizes", "1", "3")
    rows = re.findall(r"^\| (\d) \| 2 \| (.+?) \|.*\| ([\d.]+) \| [\d,]+ \|$", table, re.MULTILINE)
    assert [batch for batch, _, _ in rows] == ["1"] * 5 + ["3"] * 5
    flops = {name: float(ratio) for _, name, ratio in rows}
    assert flops["stock fairseq"] == 1.0 > flops["low rank: core"]
    assert flops["small width: core"] < 1.0


def test_benchmark_of_deployment(
    two_trained_networks: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; those that translate are forked where fairseq is imported already."""
    pytest.importorskip("ctranslate2")
    from scripts.benchmarks import deployment

    def benchmark(arguments: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["deployment", *arguments])
        deployment.main()

    monkeypatch.setattr(deployment, "restart_in_cpu_environment", lambda threads: None)
    monkeypatch.setattr(deployment.multiprocessing, "get_context", lambda method: fork_server())
    for name in ("checkpoint_best.pt", "checkpoint_best_core.pt"):
        (tmp_path / name).symlink_to(two_trained_networks / "checkpoint_last.pt")
    options = ["--cores", "1", "--sentences", "8", "--latency-sentences", "2", "--rounds", "1"]
    forms = ["partitioned, core", "CTranslate2 float32, super"]
    table = said_by(benchmark, toy_data, tmp_path, *options, "--forms", *forms)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.count("|") == 10]
    found = {row[0]: row for row in rows[2:]}
    assert set(found) == {"stock fairseq, super", *forms}
    for name in set(found) - {"partitioned, core"}:
        assert found[name][2] == "8", f"{name} translates as stock fairseq does"
    assert found["stock fairseq, super"][4] == found["stock fairseq, super"][5] == "1.00 (1.00-1.00)"
    sizes = {name: float(row[7]) for name, row in found.items()}
    assert sizes["partitioned, core"] < sizes["stock fairseq, super"]
    assert "has no checkpoint_best.pt" in said_by(benchmark, toy_data, tmp_path / "none", fails=True)
    said = said_by(benchmark, toy_data, tmp_path, "--cores", "1000", fails=True)
    assert "argument --cores: 1000 is not allowed; allowed: at most" in said


def test_a_low_rank_core_is_dense_in_ctranslate2() -> None:
    pytest.importorskip("ctranslate2")
    from scripts.benchmarks.deployment import FORMS, dense_where_needed

    thin, wide = FORMS["ONNX int8, core"], FORMS["CTranslate2 int8 shortlist, core"]
    low_rank, other = SimpleNamespace(is_low_rank=True), SimpleNamespace(is_low_rank=False)
    assert dense_where_needed(wide, low_rank) == dataclasses.replace(wide, dense=True)
    assert dense_where_needed(wide, other) == wide
    assert dense_where_needed(thin, low_rank) == thin


def test_random_networks_never_end_a_sentence(toy_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    from scripts.benchmarks import random_deployment

    dictionary = random_deployment.filled_up(Dictionary.load(str(toy_data / "dict.en.txt")), 600)
    assert len(dictionary) == 600
    name = "CTranslate2 int8 shortlist, 2 decoder layers, width 1/4"
    options = " ".join(TINY_ARCH).replace("-layers 2", "-layers 3")
    deployed = random_deployment.deploy(name, options, toy_data, dictionary, tmp_path)
    assert json.loads((deployed.path / "fairseq_ats.json").read_text())["partition"]["core_decoder_layers"] == 2
    for beam, shortlist in ((1, True), (5, True), (5, False)):
        translate = Translator(deployed.path, beam=beam, max_len_b=30, threads=1, shortlist=shortlist)
        (pieces,) = translate.translate_pieces([["▁ba", "▁be"]])
        assert len(pieces) == 30
        assert not shortlist or not any(piece.startswith("unused") for piece in pieces)


def test_every_core_translates_its_share() -> None:
    """Each of three processes gets its third of the lines, and the translations come in order."""
    pytest.importorskip("ctranslate2")
    from scripts.benchmarks import deployment

    class Worker:
        def __init__(self) -> None:
            self.shares: list[list[str]] = []

        def send(self, request: tuple[int, list[str]]) -> None:
            assert request[0] == 32
            self.shares.append(request[1])

        def recv(self) -> tuple[float, list[str]]:
            return 0.25, [line.upper() for line in self.shares[-1]]

    workers = [Worker() for _ in range(3)]
    turn, translations = deployment.translate(workers, list("abcdefgh"), 32)
    assert translations == list("ABCDEFGH")
    assert [worker.shares for worker in workers] == [[list("adg")], [list("beh")], [list("cf")]]
    assert turn.cpu == 0.75


def test_benchmarks_refuse() -> None:
    if not torch.cuda.is_available():
        assert "--device: cuda is not allowed, because torch finds no GPU" in script(
            "scripts.benchmarks.training", "--device", "cuda", fails=True
        )
    assert "--tokens: 3 is not allowed" in script("scripts.benchmarks.training", "--tokens", "3", fails=True)
    done = subprocess.run(["bash", str(ROOT / "scripts/benchmark.sh"), "x", "tpu"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_plot_of_deployment(tmp_path: Path) -> None:
    from scripts.figures import deployment

    rows = deployment.read_rows((ROOT / "results/deployment/README.md").read_text())
    assert deployment.Deployed(rows[0].run, "stock fairseq", "super", rows[0].bleu, 1.0, 1.0, 1.0) == rows[0]
    assert {row.network for row in rows} == {"super", "core"}
    assert all(row.low <= row.speed <= row.high for row in rows)
    deployment.draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_plot_of_criteria(tmp_path: Path) -> None:
    """Of a log as fairseq writes it: options at its head, lines of epochs, lines twice, one cut off."""
    log, output = tmp_path / "train.log", tmp_path / "figure"
    names = ("c_norm", "c_sim", "c_align", "alpha_t", "q_t")
    values = [["2", "0.5", "1.5", "0.75", "3"], ["4", "0.7", "inf", "-0.5", "inf"], ["3", "0.6", "2.5", "0.25", "7.5"]]
    lines = [
        json.dumps({"num_updates": str(10 * (i + 1)), "loss": "5"} | dict(zip(names, numbers, strict=True)))
        for i, numbers in enumerate(values)
    ]
    log.write_text("\n".join(["{'_name': None}", *lines, lines[-1], '{"train_c_norm": "3"}', lines[0][:30]]))
    table = script("scripts.figures.criteria", output, f"standard={log}", f"ATS={log}")
    records = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert [(r["run"], r["num_updates"]) for r in records] == [
        (n, u) for n in ("standard", "ATS") for u in (10, 20, 30)
    ]
    assert [records[1][name] for name in names] == [4.0, 0.7, None, -0.5, None]
    # c_norm² and c_sim of all three, the others where there is alignment.
    assert cells_of(table)[-2:] == [
        ["ATS", "all (3)", "9.667", "0.600", "2.000", "0.500", "5.250", "1"],
        ["ATS", "last quarter (1)", "9.000", "0.600", "2.500", "0.250", "7.500", "0"],
    ]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_figures_2_and_3(tmp_path: Path) -> None:
    """With the cosine, which the run must have logged."""
    log, output = tmp_path / "train.log", tmp_path / "figure"
    values = {"c_norm": "2", "c_sim": "0.5", "c_align": "inf", "alpha_t": "-0.5", "q_t": "inf"}
    lines = [json.dumps({"num_updates": str(10 + n), "cosine": c} | values) for n, c in enumerate(("-0.5", "0.25"))]
    log.write_text("\n".join(lines))
    table = script("scripts.figures.criteria", "--figures", "23", output, f"with dropout={log}", f"without={log}")
    assert cells_of(table)[-1][-2:] == ["1", "0.250"]
    assert cells_of(table)[-2][-1] == "-0.125"
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [json.loads(line)["cosine"] for line in output.with_suffix(".jsonl").read_text().splitlines()][:2] == [
        -0.5,
        0.25,
    ]


def test_table_of_the_theory(tmp_path: Path) -> None:
    """Medians over the last quarter, the last validation, and Lemma 2 where its assumption holds."""
    log, output = tmp_path / "train.log", tmp_path / "theory"
    lines = []
    for update in range(1, 9):
        c_sim, change, moved = {7: ("1.5", "0.4", "3"), 8: ("3", "0.8", "5")}.get(update, ("9", "0.9", "1"))
        values = {"c_norm": "2", "c_sim": c_sim, "c_align": "1.125", "alpha_t": "0.5", "q_t": "4", "cosine": "0.875"}
        values |= {"grad_change": change, "perturbation": moved, "smoothness": "0.1", "num_updates": str(update)}
        lines += [json.dumps({"epoch": 1} | values)]
    valid = {"epoch": 1, "valid_loss": "4.25", "valid_perturbed_loss": "5.5", "valid_num_updates": "8"}
    log.write_text("\n".join([*lines, json.dumps(valid)]))
    text = script("scripts.figures.theory", output, f"dropout={log}")
    names = ["c_norm", "c_sim", "c_align", "alpha_t", "q_t", "cosine", "Δ_t", "left side of (4)", "1/2L̂"]
    assert cells_of(text) == [
        ["run", *names, "loss", "perturbed loss"],
        ["dropout", "2", "2.25", "1.12", "0.5", "4", "0.875", "0.6", "4", "5", "4.25", "5.5"],
    ]
    assert "Δ_t < ½ in 1 of 8 records with a perturbation; there c_sim ≤ 1.500 (< 2)" in text
    assert len(output.with_suffix(".jsonl").read_text().splitlines()) == 8


def test_lemma_3_on_logistic_regression(tmp_path: Path) -> None:
    """The losses fit the descents; the promise is kept where α_t scales the step, and without it the loss ascends."""
    table = script("scripts.figures.lemma_3", tmp_path / "lemma_3", "--steps", 60)
    assert [row[0] for row in cells_of(table)[1:]] == [
        f"{name}, {how}" for name in ("dropout", "ATS") for how in ("α_t", "without α_t")
    ]
    assert [row[4] for row in cells_of(table)[1:]] == ["0", "", "0", ""]
    records = [json.loads(line) for line in (tmp_path / "lemma_3.jsonl").read_text().splitlines()]
    assert len(records) == 4 * 60
    for one, other in pairwise(records[:60]):  # which have six digits
        assert other["loss"] == pytest.approx(one["loss"] - one["descent"], abs=2e-6)
        assert one["descent"] >= one["promised"] - 1e-6
    assert any(record["descent"] < 0 for record in records[60:120])


def figure4(*options: object) -> subprocess.CompletedProcess[str]:
    return reproduce("figure4", *options)


def reproduce(name: str, *options: object) -> subprocess.CompletedProcess[str]:
    command, environment = [f"scripts/reproduce_{name}.sh", *map(str, options)], {"PYTHONPATH": str(STAND_INS)}
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def test_figure_4_refuses(tmp_path: Path) -> None:
    for options, message in (
        (["--quick"], "unknown option --quick; allowed: --data --output --threads --device --dry-run --"),
        (["--output"], "--output needs a value"),
        (["--data", tmp_path], f"--data is {tmp_path}, which is not a folder of binarised data"),
    ):
        done = figure4(*options)
        assert (done.returncode, done.stderr) == (1, f"reproduce_figure4: {message}\n")


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the script makes its own environment, .venv")
def test_figure_4_from_training_to_picture(toy_data: Path, tmp_path: Path) -> None:
    """Both trainings, watched, and their picture; small layers and few updates are the only difference."""
    small = [*TINY_ARCH, "--data-buffer-size", 0, "--max-update", 3, "--criteria-interval", 1, "--log-interval", 1]
    done = figure4("--data", toy_data, "--output", tmp_path / "out", "--threads", 1, "--", *small)
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(line) for line in (tmp_path / "out/figure4.jsonl").read_text().splitlines()]
    assert [(r["run"], r["num_updates"]) for r in records] == [(n, u) for n in ("standard", "ATS") for u in (1, 2, 3)]
    assert (tmp_path / "out/figure4.png").read_bytes().startswith(b"\x89PNG")
    assert ["ATS", "all (3)"] in [cells[:2] for cells in cells_of((tmp_path / "out/table.md").read_text())]
    again = figure4("--data", toy_data, "--output", tmp_path / "out", "--threads", 2, "--", *small)
    assert again.stdout.count(" is there\n") == 2, "the number of threads does not make it another training"
    (tmp_path / "other/standard").mkdir(parents=True)
    (tmp_path / "other/standard/checkpoint_best.pt").touch()
    refused = figure4("--data", toy_data, "--output", tmp_path / "other", "--", *small)
    assert f"{tmp_path}/other/standard is not a training of this script; move it away" in refused.stderr
    assert (tmp_path / "other/standard/checkpoint_best.pt").exists()
    commands = figure4("--data", toy_data, "--dry-run").stdout.splitlines()
    of_trainings = [line for line in commands if " fairseq-train " in line]
    assert ["--alternate" in line for line in of_trainings] == [False, True]


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the script makes its own environment, .venv")
def test_theory_from_training_to_table(toy_data: Path, tmp_path: Path) -> None:
    """One scheme; small layers and few updates are the only difference."""
    small = [*TINY_ARCH, "--data-buffer-size", 0, "--max-update", 2, "--criteria-interval", 1, "--log-interval", 1]
    small += ["--validate-interval-updates", 2, "--eval-bleu-args", '{"beam": 1, "max_len_b": 3}']
    small += ["--scheme-args", '{"sparsity": 0.5, "end": 1, "every": 1, "feedback": false}']
    options = ["--data", toy_data, "--output", tmp_path / "out", "--threads", 1, "--", *small]
    done = reproduce("theory", "multi30k", "prune_neurons_hard", *options)
    assert done.returncode == 0, done.stderr[-4000:]
    header, row = cells_of((tmp_path / "out/table.md").read_text())
    assert header[-5:] == ["loss", "core loss", "perturbed loss", "bleu", "perturbed bleu"]
    assert all(row)


MULTI30K = ROOT.parent / "shared" / "data" / "multi30k"


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the script makes its own environment, .venv")
def test_prepare_multi30k_refuses(tmp_path: Path) -> None:
    def prepare(*options: object) -> str:
        command = ["bash", str(ROOT / "scripts/prepare_multi30k.sh"), *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0
        return done.stderr

    assert "unknown option --rwa; allowed: --raw" in prepare("--rwa", tmp_path)
    assert "--raw needs a value" in prepare("--raw")
    raw = tmp_path / "raw"
    assert f"--raw is {raw}, which is not a folder" in prepare("--raw", raw)
    raw.mkdir()
    assert f"{raw}/train.en.gz is missing; it is https://raw.githubusercontent.com/" in prepare(
        "--raw", raw, "--output", tmp_path / "out"
    )
    (raw / "train.en.gz").write_bytes(b"\x1f\x8b\x08\x00 truncated")
    assert f"{raw}/train.en.gz is truncated or no gzip file" in prepare("--raw", raw, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
