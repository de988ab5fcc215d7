"""``fairseq-ats-translate``: the translations are fairseq's, and every line of text gives one line."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import torch
from fairseq.data import Dictionary
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.cli import translate as command
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.data.text import Text, parts
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.engine import Engine, Hypothesis, Search
from fairseq_ats.partition.partition import Partition
from fairseq_ats.translate import Translator
from tests import STAND_INS
from tests.checkpoints.test_reading import Code
from tests.fixtures import ROOT
from tests.support.command_line import PLUGIN, run
from tests.support.conversions import convert, save_checkpoint

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = ["--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25"]
SHORT = {"max_len_b": 20}


@pytest.fixture(scope="module")
def checkpoint(two_trained_networks: Path) -> Path:
    return two_trained_networks / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def lines(toy_data: Path) -> list[str]:
    return (toy_data / "test.en").read_text().splitlines()


@pytest.fixture(scope="module")
def core(checkpoint: Path) -> Translator:
    return Translator(checkpoint, level="core", **SHORT)


@pytest.fixture(scope="module")
def stock(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The super-network of ``checkpoint`` as stock fairseq would have written it."""
    return convert(checkpoint, "super", tmp_path_factory.mktemp("stock") / "stock.pt")


@pytest.mark.parametrize("level", ["core", "super"])
def test_the_same_as_fairseq_interactive(checkpoint: Path, toy_data: Path, lines: list[str], level: str) -> None:
    interactive = ["fairseq-interactive", str(toy_data), *PLUGIN, "--path", str(checkpoint), "--cpu", "--bpe"]
    interactive += [
        "sentencepiece",
        "--sentencepiece-model",
        str(toy_data / "sentencepiece.model"),
        "--max-len-b",
        "20",
    ]
    interactive += ["--buffer-size", "50", "--batch-size", "8", "--max-level", {"core": "1", "super": "2"}[level]]
    text = [*lines, "ba 漢字 be", "Zx"]
    output = run(interactive, stdin="".join(line + "\n" for line in text))
    expected = {int(n): line for n, line in re.findall(r"^D-(\d+)\t[-\d.]+\t(.*)$", output, re.MULTILINE)}
    assert len(set(expected.values())) > 10, "too few different translations to compare"
    translations = Translator(checkpoint, level=level, batch_size=8, **SHORT)(text)
    assert translations == [expected[n] for n in range(len(text))]


def test_the_networks_differ_and_the_highest_is_the_default(
    checkpoint: Path, core: Translator, lines: list[str]
) -> None:
    full = Translator(str(checkpoint), **SHORT)(lines)
    assert full == Translator(checkpoint, level=2, **SHORT)(lines)
    assert full != core(lines)


def test_every_line_gives_one_line(core: Translator, lines: list[str]) -> None:
    alone = {line: core(line) for line in lines[:3]}
    text = ["", lines[2], " \t ", "☃", lines[0], "\u200b", lines[1], "a\u2028b\rc", "\ud800", "\0", ""]
    translated = list(core.translate(text, buffer_size=4))
    assert len(translated) == len(text)
    for line, translation in zip(text, translated, strict=True):
        assert "\n" not in translation
        if line in alone:
            assert translation == alone[line]
        if not line.strip():
            assert translation == ""
    assert len(set(alone.values())) == 3


def test_a_long_line_is_translated_in_parts(core: Translator, lines: list[str]) -> None:
    """Longer than a translation may be, here 20 pieces: nothing is cut off."""
    words = [f"{line}." for line in lines]
    line = " ".join(words)
    pieces = core._text.encode(line)
    assert len(pieces) > 200
    expected = [core._text.decode(p) for part in parts(pieces, 20) for p in core._engine.translate([part])]
    assert len(expected) > 10
    assert core(line) == " ".join(expected)


@given(st.lists(st.sampled_from(["▁a", "b", "▁c.", "!"])), st.integers(1, 8))
def test_parts(pieces: list[str], limit: int) -> None:
    found = list(parts(pieces, limit))
    assert [piece for part in found for piece in part] == pieces
    assert all(1 <= len(part) <= limit for part in found)
    for part, following in pairwise(found):
        whole_words = following[0].startswith("▁") or part[-1].endswith((".", "!"))
        assert whole_words or not any(piece.startswith("▁") for piece in [*part, *following][1 : limit + 1])


def test_parts_end_with_sentences() -> None:
    pieces = "▁a b ▁c d . ▁e ▁f g ▁h".split()
    assert list(parts(pieces, 8)) == [pieces[:5], pieces[5:]]
    assert list(parts(pieces, 4)) == [pieces[:2], pieces[2:5], pieces[5:]]


def test_longest_source() -> None:
    assert Search().longest_source(1023) == 200
    assert Search(max_len_a=1.2, max_len_b=10).longest_source(1023) == 1023
    search = Search(max_len_a=0.5, max_len_b=10)
    assert search.longest_source(1023) == max(n for n in range(1024) if search.longest(n) >= n)


@pytest.mark.parametrize("space", ["\u0085", "\u00a0", "\u2028", "\u3000", "\x1c"])
def test_white_space_ends_a_token(space: str, tmp_path: Path) -> None:
    """As where fairseq makes numbers of training data, also if sentencepiece leaves such characters alone."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"ab{space}cd ab cd{space}"] * 20),
        model_prefix=str(tmp_path / "model"),
        vocab_size=11,
        model_type="bpe",
        normalization_rule_name="identity",
        minloglevel=2,
    )
    line = f"ab{space}cd {space} cd"
    text = Text(tmp_path / "model.model")
    inside = [piece for piece in text._processor.encode(line, out_type=str) if space in piece]
    assert inside, "sentencepiece took the character away, and the test could not fail"
    pieces = text.encode(line)
    assert not any(space in piece for piece in pieces)
    dictionary = Dictionary()
    numbers = dictionary.encode_line(" ".join(text._processor.encode(line, out_type=str)))
    assert [dictionary.index(piece) for piece in pieces] == numbers[:-1].tolist()
    assert dictionary.unk() not in numbers


class Said(Engine):
    """An engine that says what it was made with."""

    def best(self, sentences: list[list[str]]) -> list[Hypothesis]:
        return [Hypothesis(("<s>", "▁a", "<s>", "<unk>"), -1.0) for _ in sentences]


def test_start_symbols_are_not_printed() -> None:
    assert Said(Search(), (9, 9)).translate([["▁b"]]) == [["▁a", "<unk>"]]


@pytest.mark.parametrize(("positions", "pieces"), [((60, 40), 39), ((40, 60), 39), ((1024, 1024), 200)])
def test_either_limit_of_the_network_cuts_lines(positions: tuple[int, int], pieces: int) -> None:
    engine = Said(Search(), positions)
    assert engine.max_source_pieces == pieces
    assert engine.longest(pieces) == min(positions[1] - 1, 200)


def test_a_network_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the network takes 9 and gives 1 tokens, .* allowed: 2 or more"):
        Said(Search(), (9, 1))


class Terminal:
    """Standard streams of a command that is called in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stdin: bytes) -> None:
        self.out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=self.out))


def test_bytes_in_bytes_out(
    checkpoint: Path, core: Translator, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not UTF-8, Windows' line ends, no newline at the end; a file may be replaced by its translation."""
    text = f"{lines[0]}\r\n\n{lines[1]}\n".encode() + b"b\xff\n" + lines[2].encode()
    expected = [core(lines[0]), "", core(lines[1]), core("b\ufffd"), core(lines[2])]
    options = [str(checkpoint), "--level", "1", "--max-len-b", "20", "--quiet"]
    terminal = Terminal(monkeypatch, text)
    command.main(options)
    assert terminal.out.getvalue().decode() == "".join(f"{line}\n" for line in expected)

    file = tmp_path / "text"
    file.write_bytes(text)
    terminal = Terminal(monkeypatch, b"")
    command.main([*options, "--input", str(file), "--output", str(file), "--buffer-size", "2"])
    assert file.read_text() == "".join(f"{line}\n" for line in expected)
    assert list(tmp_path.iterdir()) == [file]
    assert terminal.out.getvalue() == b""
    command.main(options)
    assert terminal.out.getvalue() == b"", "nothing in, nothing out"


def test_closed_streams(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(build(*SMALL_WIDTH), tmp_path / "checkpoint.pt")
    (tmp_path / "text").write_text("\n")
    files = {"stdin": ["--input", str(tmp_path / "text")], "stdout": ["--output", str(tmp_path / "out")]}
    Terminal(monkeypatch, b"")
    for stream, option in files.items():
        with monkeypatch.context() as patch:
            patch.setattr(sys, stream, None)
            with pytest.raises(SystemExit) as stopped:
                command.main([str(checkpoint), *(files["stdout"] if stream == "stdin" else files["stdin"])])
            assert stopped.value.code == 2
            assert re.search(f"{stream} is closed; {option[0]} FILE says", capsys.readouterr().err)
        monkeypatch.setattr(sys, stream, None)
    command.main([str(checkpoint), *files["stdin"], *files["stdout"], "--quiet"])
    assert (tmp_path / "out").read_text() == "\n"


def test_an_interrupted_translation_leaves_no_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Translator, "translate", interrupted)
    with pytest.raises(SystemExit) as stopped:
        command.main([str(checkpoint), "--output", str(tmp_path / "out")])
    assert stopped.value.code == 130
    assert list(tmp_path.iterdir()) == []


def test_progress_of_long_input(
    checkpoint: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    options = [str(checkpoint), "--level", "core", "--input", str(tmp_path / "text"), "--output", str(tmp_path / "out")]
    options += ["--max-len-b", "10", "--beam", "1"]
    command.main(options)
    assert capsys.readouterr().err == "", "it did not take long"
    monkeypatch.setattr(command, "PROGRESS_AFTER", 0)
    command.main(options)
    assert "40/40" in capsys.readouterr().err


def test_a_reader_that_goes_away(checkpoint: Path, core: Translator, lines: list[str]) -> None:
    tool = [
        sys.executable,
        "-c",
        "from fairseq_ats.cli.translate import main; main()",
        str(checkpoint),
        "--level",
        "core",
        "--max-len-b",
        "20",
    ]
    process = subprocess.Popen(
        [*tool, "--buffer-size", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{STAND_INS}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write("".join(f"{line}\n" for line in lines).encode())
    process.stdin.close()
    assert process.stdout.readline().decode() == f"{core(lines[0])}\n"
    process.stdout.close()
    assert process.wait(timeout=120) == 1
    assert process.stderr.read() == b""


def test_stock_checkpoint(checkpoint: Path, stock: Path, lines: list[str]) -> None:
    assert Translator(stock, **SHORT)(lines) == Translator(checkpoint, level="super", **SHORT)(lines)


def test_a_stock_checkpoints_options_are_not_run(stock: Path, tmp_path: Path) -> None:
    """fairseq passes this option to ``eval``."""
    state = torch.load(stock, weights_only=True)
    state["cfg"]["model"]["adaptive_softmax_cutoff"] = "pytest.fail('ran code')"
    torch.save(state, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff is"):
        Translator(tmp_path / "evil.pt")


@pytest.fixture(scope="module")
def folder(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``folder("ctranslate2")`` → what ``fairseq-ats-convert`` writes, but for the network itself."""

    def folder(kind: str, network: str = "super") -> Path:
        path = tmp_path_factory.mktemp(kind)
        for name in ("dict.en.txt", "dict.de.txt", "sentencepiece.model"):
            (path / name).write_bytes((toy_data / name).read_bytes())
        DeployedFolder(
            format=kind,
            network=network,
            partition=Partition("PartitionedLinear", 0.25, 2),
            source_language="en",
            target_language="de",
            source_dictionary="dict.en.txt",
            target_dictionary="dict.de.txt",
            sentencepiece_model="sentencepiece.model",
            lowercase=False,
            weights="float32",
            max_source_positions=1024,
            max_target_positions=1024,
            beam=3,
            max_len_b=20,
        ).write(path)
        return path

    return folder


@pytest.fixture(scope="module")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of format ctranslate2 with the super-network of ``checkpoint``."""
    pytest.importorskip("ctranslate2")
    path = convert(checkpoint, "super", tmp_path_factory.mktemp("network") / "folder", to="ctranslate2")
    dataclasses.replace(DeployedFolder.read(path), beam=3, max_len_b=20).write(path)
    return path


def test_ctranslate2_folder(converted: Path, checkpoint: Path, lines: list[str]) -> None:
    text = [*lines, "", " ".join(lines[:5]), "☃ ba", "Zx", f"{lines[0]}\u0085 {lines[1]}", "ba\u0085be"]
    expected = Translator(checkpoint, beam=3, **SHORT)(text)
    translate = Translator(converted, level="super", threads=1)
    assert translate(text) == expected
    assert translate._engine.search == Search(beam=3, max_len_b=20), "the folder's"
    greedy = Translator(converted, beam=1, threads=1, workers=2)(text)
    assert greedy == Translator(checkpoint, beam=1, **SHORT)(text)
    assert greedy != expected
    assert translate([]) == []


def test_a_network_of_few_positions(checkpoint: Path, lines: list[str], tmp_path: Path) -> None:
    """Converted with long lines to verify on; and translated in parts, however the network is written."""
    pytest.importorskip("ctranslate2")
    state = torch.load(checkpoint, weights_only=True)
    options = state["cfg"]["model"]
    options.max_source_positions, options.max_target_positions = 14, 12  # of sines: nothing in the weights
    torch.save(state, tmp_path / "few.pt")
    text = [*lines[:8], " ".join(lines[:4])]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in text))
    verify = ["--verify-on", str(tmp_path / "text"), "--beam", "2"]
    folder = convert(tmp_path / "few.pt", "super", tmp_path / "folder", *verify, to="ctranslate2")
    translate = Translator(tmp_path / "few.pt")
    expected = translate(text)
    assert len(translate._text.encode(text[-1])) > translate._engine.max_source_pieces == 11
    assert Translator(folder, threads=1)(text) == expected
    assert expected[:8] == Translator(checkpoint)(lines[:8])


def test_onnx_folder(onnx_core: Path, checkpoint: Path, lines: list[str]) -> None:
    text = [*lines, "", "☃ ba"]
    assert Translator(onnx_core, level="core", **SHORT)(text) == Translator(checkpoint, "core", **SHORT)(text)
    greedy = Translator(onnx_core, beam=1, batch_size=7, threads=1, **SHORT)(text)
    assert greedy == Translator(checkpoint, "core", beam=1, **SHORT)(text)


def test_an_onnx_folder_of_an_earlier_version(onnx_core: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(onnx_core, tmp_path / "folder")
    (folder / "candidates.onnx").unlink()
    DeployedFolder.read(folder).write(folder)
    with pytest.raises(ValueError, match=r"folder has no candidates\.onnx; convert the checkpoint anew"):
        Translator(folder)
    (folder / "candidates.onnx").write_bytes(b"no graph")
    DeployedFolder.read(folder).write(folder)
    with pytest.raises(ValueError, match=r"candidates\.onnx cannot be read by onnxruntime"):
        Translator(folder)


WITHOUT_FAIRSEQ = """
import sys, time
start = time.process_time()
from fairseq_ats.translate import Translator
imported = time.process_time() - start
for folder in sys.argv[1:]:
    print(*Translator(folder, threads=1, max_len_b=20)(["ba be", "di do da", ""]), sep="\\n")
assert not {"torch", "fairseq", "fairseq_ats.plugin"} & set(sys.modules)
assert imported < 2, imported  # 0.2 s on an idle machine; torch and fairseq take 5
try:
    Translator(__file__)
except ValueError as error:
    assert "a checkpoint needs torch and fairseq" in str(error), error
"""
RUNTIME = ("numpy", "sentencepiece", "ctranslate2", "onnxruntime", "filelock", "tqdm")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a Python that has the packages of the runtime, and no others."""
    site = tmp_path_factory.mktemp("site")
    for package in RUNTIME:
        installed = Path(str(find_spec(package).origin)).parent
        for path in (installed, installed.with_name(f"{package}.libs")):  # what a wheel brings along
            if path.exists():
                (site / path.name).symlink_to(path)
    return {"PYTHONPATH": f"{site}:{ROOT}"}


def test_folders_need_neither_torch_nor_fairseq(
    converted: Path, onnx_core: Path, runtime: dict[str, str], tmp_path: Path
) -> None:
    text = ["ba be", "di do da", ""]
    expected = [line for path in (converted, onnx_core) for line in Translator(path, threads=1, max_len_b=20)(text)]
    (tmp_path / "program.py").write_text(WITHOUT_FAIRSEQ)
    program = [sys.executable, "-S", str(tmp_path / "program.py"), str(converted), str(onnx_core)]
    done = subprocess.run(program, env=runtime, capture_output=True, text=True)
    assert done.stdout.splitlines() == expected, done.stderr
    assert expected[:3] != expected[3:]

    arguments = ["translate", str(onnx_core), "--max-len-b", "20", "--threads", "1"]
    tool = [sys.executable, "-S", "-m", "fairseq_ats.cli", *arguments]
    done = subprocess.run(tool, env=runtime, input="ba be\n", capture_output=True, text=True)
    assert done.stdout.splitlines() == expected[3:4], done.stderr


AS_INSTALLED = """
import sys
sys.argv[0] = "fairseq-ats"
sys.modules["torch"] = sys.modules["fairseq"] = None  # importing them raises
from fairseq_ats.cli.main import main
main()
"""


def test_the_command_imports_neither_for_a_folder(converted: Path) -> None:
    tool = [sys.executable, "-c", AS_INSTALLED, "translate", str(converted), "--threads", "1"]
    done = subprocess.run(tool, input="ba be\n", capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"{Translator(converted, threads=1)('ba be')}\n", done.stderr


def test_a_card_without_the_libraries_of_ctranslate2(
    converted: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts the card, and fails in the first product: as on a machine with the libraries of CUDA 13 alone."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    problem = "Library libcublas.so.12 is not found or cannot be loaded"

    class OnCard:
        device = "cuda"

        def translate_batch(self, *_: Any, **__: Any) -> None:
            raise RuntimeError(problem)

    real = ctranslate2.Translator
    expected = Translator(converted, device="cpu", threads=1)("ba be")
    monkeypatch.setattr(
        ctranslate2, "Translator", lambda path, device, **rest: real(path, **rest) if device == "cpu" else OnCard()
    )
    assert Translator(converted, threads=1)("ba be") == expected
    assert f"takes the CPU, since ctranslate2 cannot use the card: {problem}" in caplog.text
    with pytest.raises(ValueError, match=f"--device is cuda, .*{problem}; allowed here: cpu, auto"):
        Translator(converted, device="cuda")


def test_refused_onnx_folders(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder("onnx", "core")
    with pytest.raises(ValueError, match=r"--device is cuda and .* is of format onnx; allowed: cpu, auto"):
        Translator(path, device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs the package onnxruntime \(pip install onnxruntime\)"):
        Translator(path)


def test_refused_folders(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--level is core and .* holds the super \(level 2\) only"):
        Translator(converted, level="core")
    with pytest.raises(ValueError, match=r"--data is .* and .* is a folder, which brings its own"):
        Translator(converted, data=converted)
    with pytest.raises(ValueError, match="was not written by fairseq-ats-convert"):
        Translator(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in converted.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"broken is damaged: its 'model.bin'"):
        Translator(broken)
    DeployedFolder.read(broken).write(broken)
    with pytest.raises(ValueError, match="cannot be read by ctranslate2"):
        Translator(broken)
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"needs the package ctranslate2 \(pip install ctranslate2\)"):
        Translator(converted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{missing}"], r"missing\.pt is neither a checkpoint nor a folder"),
        (["{code}"], "holds more than weights and options"),
        (["{stock}", "--level", "core"], "holds one network, without levels; leave it out"),
        (["{stock}", "--level", "big"], "--level is big; allowed: core, super, 1, 2"),
        (["{stock}", "--data", "/nowhere"], "--data is /nowhere, which is not a folder"),
        (["{moved}"], "the checkpoint was trained with /nowhere, which is not a folder; --data names"),
        (["{other}"], "was trained with --task language_modeling; allowed: translation, translation_with"),
        (["{stock}", "--sentencepiece-model", "no.model"], r"--sentencepiece-model is no\.model, which is not a file"),
        (["{stock}", "--sentencepiece-model", "{stock}"], "cannot be read as a sentencepiece model"),
        (["{stock}", "--batch-size", "0"], "argument --batch-size: 0 is not allowed; allowed: a whole number"),
        (["{stock}", "--workers", "2"], "--workers is 2; allowed without CTranslate2: 1"),
        (["{stock}", "--threads", "0"], "argument --threads: 0 is not allowed; allowed: a whole number"),
        (["{stock}", "--beam", "0"], "argument --beam: 0 is not allowed; allowed: a whole number"),
        (["{stock}", "--max-len-b", "0"], "argument --max-len-b: 0 is not allowed; allowed: a whole number"),
        (["{stock}", "--buffer-size", "0"], "argument --buffer-size: 0 is not allowed; allowed: a whole number"),
        (["{stock}", "--input", "{missing}"], r"--input is .*missing\.pt, which is not a file"),
        (["{stock}", "--max-len-a", "inf"], "--max-len-a is inf"),
        (["{stock}", "--lenpen", "nan"], "--lenpen is nan; allowed: a finite number"),
        (["{stock}", "--output", "/proc/out"], "/proc"),
        (["{stock}", "--output", "/nowhere/out"], "/nowhere/out cannot be written: /nowhere is not a folder"),
    ],
)
def test_refused(
    stock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    files = {name: tmp_path / f"{name}.pt" for name in ("missing", "code", "moved", "other")} | {"stock": stock}
    torch.save({"model": {}, "extra": Code(tmp_path / "ran")}, files["code"])
    torch.save({"model": {}, "cfg": {"task": {"_name": "translation", "data": "/nowhere"}}}, files["moved"])
    torch.save({"model": {}, "cfg": {"task": {"_name": "language_modeling"}}}, files["other"])
    with pytest.raises(SystemExit) as stopped:
        command.main([option.format(**files) for option in options])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "ran").exists()


def test_cuda_where_there_is_none(stock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device is cuda, and torch finds no CUDA device"):
        Translator(stock, device="cuda")


def test_a_core_alone_has_no_super_network(build: Build, tmp_path: Path) -> None:
    path = save_checkpoint(build(*SMALL_WIDTH, "--max-level", "1"), tmp_path / "core.pt")
    with pytest.raises(ValueError, match="--max-level is 2 and the checkpoint holds level 1 only"):
        Translator(path, level="super")
    assert Translator(path, level="core", **SHORT)("ba be") == Translator(path, **SHORT)("ba be")


def test_dictionaries_of_another_size(stock: Path, toy_data: Path, tmp_path: Path) -> None:
    for language in ("en", "de"):
        words = (toy_data / f"dict.{language}.txt").read_text()
        (tmp_path / f"dict.{language}.txt").write_text(words + "".join(f"more{i} 1\n" for i in range(8)))
    (tmp_path / "binarised.json").write_text(json.dumps({"source": "en", "target": "de"}))
    with pytest.raises(ValueError, match="does not fit the dictionaries in"):
        Translator(stock, data=tmp_path)


def test_data_folder(tmp_path: Path) -> None:
    """Dictionaries and a stamp are enough; the checkpoint's languages come first."""
    with pytest.raises(ValueError, match="does not tell its languages"):
        DataFolder.find(tmp_path, {})
    (tmp_path / "train.en-de.en.idx").touch()
    with pytest.raises(ValueError, match=r"it has no dict\.en\.txt"):
        DataFolder.find(tmp_path, {})
    for language in ("en", "de", "fr"):
        (tmp_path / f"dict.{language}.txt").touch()
    found = DataFolder.find(tmp_path, {"source_lang": None, "target_lang": None})
    assert (found.source_language, found.target_language) == ("en", "de")
    assert (found.sentencepiece_model, found.lowercase) == (None, False)
    (tmp_path / "binarised.json").write_text(json.dumps({"source": "de", "target": "fr", "lowercase": True}))
    (tmp_path / "sentencepiece.model").touch()
    assert DataFolder.find(None, {"data": [str(tmp_path)]}).path == tmp_path, "of an early fairseq"
    found = DataFolder.find(None, {"data": f"{tmp_path}:/elsewhere"})
    assert (found.source_language, found.target_language, found.lowercase) == ("de", "fr", True)
    assert found.sentencepiece_model == tmp_path / "sentencepiece.model"
    found = DataFolder.find(tmp_path, {"source_lang": "fr", "target_lang": "en"})
    assert (found.source_language, found.target_language) == ("fr", "en")
    (tmp_path / "binarised.json").write_text("{")
    with pytest.raises(ValueError, match=r"binarised\.json cannot be read"):
        DataFolder.find(tmp_path, {})
