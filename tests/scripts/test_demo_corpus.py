"""The demo's corpus: numbers, dates, the order of words, and the files."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from scripts.demo import corpus


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (6, "six", "sechs"),
        (16, "sixteen", "sechzehn"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (77, "seventy-seven", "siebenundsiebzig"),
        (100, "one hundred", "hundert"),
        (116, "one hundred and sixteen", "hundertsechzehn"),
        (345, "three hundred and forty-five", "dreihundertfünfundvierzig"),
        (999, "nine hundred and ninety-nine", "neunhundertneunundneunzig"),
    ],
)
def test_numbers(n: int, english: str, german: str) -> None:
    assert corpus.number(n) == (english, german)


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (1, "first", "ersten"),
        (3, "third", "dritten"),
        (6, "sixth", "sechsten"),
        (12, "twelfth", "zwölften"),
        (17, "seventeenth", "siebzehnten"),
        (20, "twentieth", "zwanzigsten"),
        (28, "twenty-eighth", "achtundzwanzigsten"),
        (31, "thirty-first", "einunddreißigsten"),
    ],
)
def test_ordinals(n: int, english: str, german: str) -> None:
    assert corpus.ordinal(n) == (english, german)


def test_word_order() -> None:
    """The verb is second in a main clause, also after a date, and last after "weil"."""
    pairs = dict(corpus.sentences(1, 2000))
    for english, german in pairs.items():
        first, _, because = german.partition(", weil ")
        assert ("because" in english) == bool(because)
        if because:
            assert because.removesuffix(".").split()[-1] in (*corpus.HABEN, *corpus.WERDEN)
        if english.startswith("On "):
            date, verb = english.split(",")[:2], first.split(", ")[2].split()[0]
            assert date[1].startswith(" the ")
            assert verb in (*corpus.HABEN, *corpus.WERDEN)
    assert (
        pairs["The doctor lost four red hats in the kitchen."] == "Die Ärztin hat vier rote Hüte in der Küche verloren."
    )


def test_one_english_sentence_has_one_translation() -> None:
    rng, pairs = Random(11), {}
    for _ in range(5000):
        english, german = corpus.sentence(rng)
        assert pairs.setdefault(english, german) == german


def test_files_are_determined_by_the_seed(tmp_path: Path) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        for _ in range(2):  # the second call replaces the files of the first
            corpus.main(["--output", str(tmp_path / "new" / name), "--seed", str(seed)])
        return {path.name: path.read_bytes() for path in (tmp_path / "new" / name).iterdir()}

    first = written("a", 1)
    assert first == written("b", 1)
    assert first["train.en"] != written("c", 2)["train.en"]
    assert first.keys() == {f"{split}.{language}" for split in corpus.SIZES for language in corpus.LANGUAGES}
    for language in corpus.LANGUAGES:
        splits = [first[f"{split}.{language}"].decode().splitlines() for split in corpus.SIZES]
        assert [len(lines) for lines in splits] == list(corpus.SIZES.values())
        assert len({line for lines in splits for line in lines}) == sum(corpus.SIZES.values())


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").write_text("keep")
    with pytest.raises(SystemExit):
        corpus.main(["--output", str(tmp_path)])
    assert f"argument --output: {tmp_path} holds other files; allowed: a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
