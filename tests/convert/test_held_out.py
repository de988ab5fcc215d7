"""``fairseq-ats convert --shortlist`` and ``--tune-on``: measured on held-out data, and kept in the folder."""

from __future__ import annotations

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import numpy as np
import pytest
from fairseq.data import Dictionary

from fairseq_ats.cli import translate as command
from fairseq_ats.convert import held_out, shortlist
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.engine import Search
from fairseq_ats.translate import Translator
from tests.support.conversions import convert

OPTIONS = ["--shortlist", "train", "--tune-on", "valid"]


@pytest.fixture(scope="module")
def folder(two_trained_networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "folder"
    return convert(two_trained_networks / "checkpoint_last.pt", "super", path, *OPTIONS, to="ctranslate2")


def changed(folder: Path, copy: Path, shortlist_lines: Sequence[str]) -> Path:
    """Return a copy of the folder with another shortlist."""
    shutil.copytree(folder, copy)
    (copy / "vmap.txt").write_text("".join(line + "\n" for line in shortlist_lines))
    DeployedFolder.read(copy).write(copy)
    return copy


def test_the_shortlist_is_used(folder: Path, toy_data: Path, tmp_path: Path) -> None:
    lines = (toy_data / "test.en").read_text().splitlines()
    whole = Translator(folder, shortlist=False, threads=1, max_len_b=20)
    assert Translator(folder, threads=1, max_len_b=20)(lines) == whole(lines), "the toy language has one word for each"
    two = changed(folder, tmp_path / "two", ["\t▁BA", "▁ba\t▁BE"])
    assert {"BA", "BE", "<unk>"} >= set(Translator(two, threads=1, max_len_b=5)("ba be bi do du").split())
    assert Translator(two, shortlist=False, threads=1, max_len_b=20)(lines) == whole(lines)

    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    options = ["--input", str(tmp_path / "text"), "--output", str(tmp_path / "out"), "--max-len-b", "20"]
    command.main([str(two), *options, "--no-shortlist", "--threads", "1"])
    assert (tmp_path / "out").read_text().splitlines() == whole(lines)


def test_every_piece_of_the_shortlist_is_in_the_vocabulary(folder: Path) -> None:
    """CTranslate2 takes a piece that it does not know for an unknown one, without a word."""
    rows = [line.split("\t") for line in (folder / "vmap.txt").read_text().splitlines()]
    pieces = {piece for row in rows for part in row for piece in part.split(" ") if piece}
    assert pieces <= set(Dictionary.load(str(folder / "dict.de.txt")).symbols)
    assert rows[0][0] == ""
    of_ba = dict(rows)["▁ba"].split(" ")
    assert (of_ba[0], of_ba[-1]) == ("▁BA", "▁ba"), "its translation first; and itself, as joint dictionaries allow"


def test_ibm_model_1_of_plain_lines() -> None:
    generator = np.random.default_rng(0)
    sources, targets = ([generator.integers(0, 6, generator.integers(1, 5)) for _ in range(30)] for _ in range(2))
    table: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(lambda: 1.0))
    for _ in range(5):
        counted: dict[int, Counter] = defaultdict(Counter)
        for source, target in zip(sources, targets, strict=True):
            for e in target.tolist():
                total = sum(table[f][e] for f in source.tolist())
                for f in source.tolist():
                    counted[f][e] += table[f][e] / total
        table = {f: {e: c / sum(row.values()) for e, c in row.items()} for f, row in counted.items()}  # type: ignore
    found = shortlist.translation_probabilities(sources, targets)
    assert len(found[0]) == sum(len(row) for row in table.values())
    for f, e, probability in zip(*(column.tolist() for column in found), strict=True):
        assert probability == pytest.approx(table[f][e], rel=1e-9)


def test_lines_of_a_shortlist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortlist, "FREQUENT", 1)
    monkeypatch.setattr(shortlist, "CANDIDATES", 1)
    dictionaries = Dictionary(), Dictionary()
    for dictionary, words in zip(dictionaries, ("one two Rome", "eins zwei Rome"), strict=True):
        for word in words.split():
            dictionary.add_symbol(word)
    pairs = [("one", "eins"), ("two one", "zwei eins"), ("two two", "zwei zwei zwei")]
    sides = [
        [np.array([dictionary.index(word) for word in pair[side].split()]) for pair in pairs]
        for side, dictionary in enumerate(dictionaries)
    ]
    lines = list(shortlist.shortlist_lines(*sides, *dictionaries))
    assert lines == ["\tzwei", "one\teins", "two\tzwei", "Rome\tRome"]


def test_what_is_said_and_kept(
    two_trained_networks: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shortlist of one folder is that of another, and the folder keeps the beam that is said to be chosen."""
    options = ["--shortlist", str(folder / "vmap.txt"), "--tune-on", "valid"]
    other = convert(two_trained_networks / "checkpoint_last.pt", "core", tmp_path / "o", *options, to="ctranslate2")
    assert (other / "vmap.txt").read_bytes() == (folder / "vmap.txt").read_bytes()
    said = capsys.readouterr().out
    found = re.search(r"BLEU (\S+) without and (\S+) with it, (\d+) of 40 translations equal, \S+ times as fast", said)
    assert found is not None, said
    assert int(found[3]) < 40 or found[1] == found[2]
    beam, penalty = re.search(r"chosen: beam (\d+), length penalty (\S+)", said).groups()  # type: ignore[union-attr]
    description = DeployedFolder.read(other)
    assert (description.beam, description.length_penalty) == (int(beam), float(penalty))
    assert Translator(other, threads=1)._engine.search == Search(int(beam), length_penalty=float(penalty))


def test_data_named_in_the_other_direction(toy_data: Path, tmp_path: Path) -> None:
    """fairseq trains en → de on files of de-en, too."""
    for path in toy_data.glob("valid.en-de.*"):
        shutil.copyfile(path, tmp_path / path.name.replace("en-de", "de-en"))
    dictionaries = (Dictionary.load(str(toy_data / f"dict.{language}.txt")) for language in ("en", "de"))
    task = SimpleNamespace(**dict(zip(("source_dictionary", "target_dictionary"), dictionaries, strict=True)))
    named = [SimpleNamespace(data=DataFolder(p, "en", "de", None, False), task=task) for p in (toy_data, tmp_path)]
    expected, found = (held_out.read_split(source, "valid") for source in named)  # type: ignore[arg-type]
    for one, other in zip(expected, found, strict=True):
        assert [sentence.tolist() for sentence in one] == [sentence.tolist() for sentence in other]
    assert not held_out.split_is_there(named[1], "test")  # type: ignore[arg-type]


@dataclass
class Scores:
    """Held-out data on which a search has the BLEU that is written here."""

    of: dict[tuple[int, float], float]

    def translate(self, translators: Sequence[Translator]) -> list[tuple[list[Search], float]]:
        return [([translator._engine.search], 1.0) for translator in translators]

    def bleu(self, translations: list[Search]) -> float:
        return self.of[translations[0].beam, translations[0].length_penalty]

    def words(self, translations: list[Search]) -> int:
        return 1


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({(1, 1.0): 29.95, (2, 1.4): 30.0}, (1, 1.0)),
        ({(1, 1.0): 29.8, (2, 0.6): 29.95, (3, 1.0): 29.99, (5, 1.4): 30.0}, (2, 0.6)),
        ({(5, 1.4): 30.0, (3, 1.0): 29.8}, (5, 1.4)),
    ],
)
def test_the_narrowest_beam_that_is_good_enough(
    folder: Path, tmp_path: Path, scores: dict, chosen: tuple[int, float]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    every = {(beam, penalty): 20.0 for beam in (1, 2, 3, 5) for penalty in (0.6, 1.0, 1.4)} | scores
    list(held_out.tune(copy, Scores(every)))  # type: ignore[arg-type]
    description = DeployedFolder.read(copy)
    assert (description.beam, description.length_penalty) == chosen
    Translator(copy)  # its sums are right


def test_refused_before_work(
    two_trained_networks: Path, folder: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = two_trained_networks / "checkpoint_last.pt"
    (tmp_path / "of_others").write_text("\t▁BA\n▁ba\t▁BA ▁Zug\n")
    (tmp_path / "no_tab").write_text("▁ba ▁BA\n")
    data = shutil.copytree(toy_data, tmp_path / "data")
    for path in data.glob("valid*"):
        path.unlink()
    for options, message in (
        (["--shortlist", "trian"], "--shortlist is trian; allowed: a split of the binarised data in .*, such as train"),
        (["--shortlist", str(tmp_path / "of_others")], "whose line 2 has '▁Zug', which is not in the dictionaries"),
        (["--shortlist", str(tmp_path / "no_tab")], "whose line 1 has no tab"),
        (["--shortlist", "train", "--data", str(data)], "data has no binarised valid, on which the conversion is"),
        (["--tune-on", "dev"], "has no binarised dev, on which the conversion is measured"),
    ):
        monkeypatch.delattr(ctranslate2, "Translator", raising=False)
        with pytest.raises(SystemExit, match=message):
            convert(checkpoint, "core", tmp_path / "folder", *options, to="ctranslate2")
        assert not (tmp_path / "folder").exists()
    for options, message in (
        (
            ["--tune-on", "valid"],
            "--tune-on is valid, and this format keeps no beam; it goes with ctranslate2 and onnx",
        ),
        (["--shortlist", "train"], "--shortlist has no meaning with --to fairseq"),
    ):
        with pytest.raises(SystemExit, match=message):
            convert(checkpoint, "core", tmp_path / "folder", *options, to="fairseq")
