"""Tests of scripts/demo/corpus.py: the grammar by hand-written examples, and the files it writes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "demo" / "corpus.py"
spec = importlib.util.spec_from_file_location("make_demo_corpus", SCRIPT)
demo = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = demo
spec.loader.exec_module(demo)

Case, Clause, Pair, Tense = demo.Case, demo.Clause, demo.Pair, demo.Tense
PRONOUNS = {pronoun.subject: pronoun for pronoun in demo.PRONOUNS}


def np(noun, determiner="", *adjectives, **options):
    """A noun phrase by English words."""
    return demo.noun_phrase(
        demo.NOUNS[noun], determiner, adjectives=tuple(demo.ADJECTIVES[a] for a in adjectives), **options
    )


def clause(subject, verb, tense=Tense.PRESENT, **options):
    """A clause by its subject and English verb."""
    return Clause(subject, demo.VERBS[verb], tense, **options)


def both(item, *, subordinate=False):
    """A clause in English and German."""
    return demo.english_clause(item), (demo.german_subordinate if subordinate else demo.german_main)(item)


@pytest.mark.parametrize(
    ("n", "english", "german"),
    [
        (1, "one", "eins"),
        (6, "six", "sechs"),
        (7, "seven", "sieben"),
        (12, "twelve", "zwölf"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (20, "twenty", "zwanzig"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (66, "sixty-six", "sechsundsechzig"),
        (77, "seventy-seven", "siebenundsiebzig"),
        (100, "one hundred", "hundert"),
        (101, "one hundred and one", "hunderteins"),
        (116, "one hundred and sixteen", "hundertsechzehn"),
        (345, "three hundred and forty-five", "dreihundertfünfundvierzig"),
        (731, "seven hundred and thirty-one", "siebenhunderteinunddreißig"),
        (999, "nine hundred and ninety-nine", "neunhundertneunundneunzig"),
    ],
)
def test_numbers(n, english, german):
    assert (demo.number_english(n), demo.number_german(n)) == (english, german)


@pytest.mark.parametrize(
    ("phrase", "english", "german"),
    [
        (np("man", "the", "old"), "the old man", ("der alte Mann", "den alten Mann", "dem alten Mann")),
        (np("woman", "the", "old"), "the old woman", ("die alte Frau", "die alte Frau", "der alten Frau")),
        (np("child", "this", "old"), "this old child", ("dieses alte Kind", "dieses alte Kind", "diesem alten Kind")),
        (np("dog", "every", "big"), "every big dog", ("jeder große Hund", "jeden großen Hund", "jedem großen Hund")),
        (np("dog", "the", "big", plural=True), "the big dogs", ("die großen Hunde",) * 2 + ("den großen Hunden",)),
        (np("apple", "a", "green"), "a green apple", ("ein grüner Apfel", "einen grünen Apfel", "einem grünen Apfel")),
        (
            np("key", "a", "old"),
            "an old key",
            ("ein alter Schlüssel", "einen alten Schlüssel", "einem alten Schlüssel"),
        ),
        (np("cat", "a", "tired"), "a tired cat", ("eine müde Katze", "eine müde Katze", "einer müden Katze")),
        (np("house", "our", "dark"), "our dark house", ("unser dunkles Haus",) * 2 + ("unserem dunklen Haus",)),
        (
            np("car", "my", "expensive", plural=True),
            "my expensive cars",
            ("meine teuren Autos",) * 2 + ("meinen teuren Autos",),
        ),
        (np("coffee", "", "cold"), "cold coffee", ("kalter Kaffee", "kalten Kaffee", "kaltem Kaffee")),
        (np("milk", "", "cold"), "cold milk", ("kalte Milch", "kalte Milch", "kalter Milch")),
        (np("water", "", "hot"), "hot water", ("heißes Wasser", "heißes Wasser", "heißem Wasser")),
        (
            np("dog", "", "young", number=21),
            "twenty-one young dogs",
            ("einundzwanzig junge Hunde",) * 2 + ("einundzwanzig jungen Hunden",),
        ),
        (
            np("woman", "the", "big", "old", number=2),
            "the two big old women",
            ("die zwei großen alten Frauen",) * 2 + ("den zwei großen alten Frauen",),
        ),
    ],
)
def test_noun_phrases(phrase, english, german):
    assert (phrase.subject, phrase.de) == (english, german)


@pytest.mark.parametrize(
    ("preposition", "phrase", "expected"),
    [
        ("in", np("garden", "the", "old"), ("in the old garden", "im alten Garten")),
        ("into", np("house", "the"), ("into the house", "ins Haus")),
        ("into", np("garden", "the"), ("into the garden", "in den Garten")),
        ("in", np("kitchen", "a"), ("in a kitchen", "in einer Küche")),
        ("to", np("school", "the"), ("to the school", "zur Schule")),
        ("to", np("museum", "the"), ("to the museum", "zum Museum")),
        ("with", np("child", "the", plural=True), ("with the children", "mit den Kindern")),
        ("without", PRONOUNS["he"], ("without him", "ohne ihn")),
        ("through", np("forest", "the", plural=True), ("through the forests", "durch die Wälder")),
    ],
)
def test_prepositions(preposition, phrase, expected):
    assert demo.prepositional(preposition, phrase) == expected


DOG, MAN = np("dog", "the"), np("man", "the")
YESTERDAY, TOMORROW = Pair("yesterday", "gestern"), Pair("tomorrow", "morgen")
OPENS = clause(MAN, "open", direct=np("window", "the"), time=Pair("every day", "jeden Tag"), fronted=True)


@pytest.mark.parametrize(
    ("english", "german", "item"),
    [
        (
            "the old man sees twenty-one dogs",
            "der alte Mann sieht einundzwanzig Hunde",
            clause(np("man", "the", "old"), "see", direct=np("dog", number=21)),
        ),
        ("every day the man opens the window", "jeden Tag macht der Mann das Fenster auf", OPENS),
        (
            "the teacher opened the bag yesterday",
            "der Lehrer hat gestern die Tasche aufgemacht",
            clause(np("teacher", "the"), "open", Tense.PAST, direct=np("bag", "the"), time=YESTERDAY),
        ),
        (
            "Anna has gone into the forest with a friend",
            "Anna ist mit einem Freund in den Wald gegangen",
            clause(
                demo.name_phrase("Anna"),
                "go",
                Tense.PERFECT,
                place=demo.prepositional("into", np("forest", "the")),
                adjunct=demo.prepositional("with", np("friend", "a")),
            ),
        ),
        (
            "she wants to give the children a book tomorrow",
            "sie will morgen den Kindern ein Buch geben",
            clause(
                PRONOUNS["she"],
                "give",
                Tense.MODAL,
                modal="want",
                indirect=np("child", "the", plural=True),
                direct=np("book", "a"),
                time=TOMORROW,
            ),
        ),
        (
            "yesterday the man helped her",
            "gestern hat der Mann ihr geholfen",
            clause(MAN, "help", Tense.PAST, indirect=PRONOUNS["she"], time=YESTERDAY, fronted=True),
        ),
        (
            "the man and the dog often follow him",
            "der Mann und der Hund folgen ihm oft",
            clause(demo.coordinate(MAN, DOG), "follow", indirect=PRONOUNS["he"], frequency=Pair("often", "oft")),
        ),
        (
            "the red apple was small yesterday",
            "der rote Apfel war gestern klein",
            clause(np("apple", "the", "red"), "be", Tense.PAST, predicate=demo.ADJECTIVES["small"], time=YESTERDAY),
        ),
        ("I know", "ich weiß", clause(PRONOUNS["I"], "know")),
        ("I fall asleep", "ich schlafe ein", clause(PRONOUNS["I"], "fall asleep")),
        ("he runs", "er läuft", clause(PRONOUNS["he"], "run")),
        (
            "they look for a knife",
            "sie suchen ein Messer",
            clause(PRONOUNS["they"], "look for", direct=np("knife", "a")),
        ),
    ],
)
def test_main_clauses(english, german, item):
    assert both(item) == (english, german)


@pytest.mark.parametrize(
    ("german", "item"),
    [
        ("der Mann das Fenster aufmacht", clause(MAN, "open", direct=np("window", "the"))),
        ("der Mann das Fenster aufgemacht hat", clause(MAN, "open", Tense.PERFECT, direct=np("window", "the"))),
        ("der Mann den Hund sehen muss", clause(MAN, "see", Tense.MODAL, modal="must", direct=DOG)),
        ("die Hunde gestern gekommen sind", clause(np("dog", "the", plural=True), "come", Tense.PAST, time=YESTERDAY)),
        ("ich müde bin", clause(PRONOUNS["I"], "be", predicate=demo.ADJECTIVES["tired"])),
    ],
)
def test_subordinate_clauses(german, item):
    assert both(item, subordinate=True)[1] == german


def test_verb_comes_first_after_a_subordinate_clause():
    item = clause(MAN, "wake", Tense.PRESENT, direct=DOG)
    assert demo.german_main(item, inverted=True) == "weckt der Mann den Hund auf"


def test_one_english_sentence_has_one_translation():
    pairs = {}
    rng = Random(11)
    for _ in range(20000):
        pair = demo.random_sentence(rng)
        assert pairs.setdefault(pair.en, pair.de) == pair.de
    assert len(pairs) > 19000


def run(*arguments, hash_seed="0"):
    """Run the script as a user does."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def read(directory):
    """The files of a directory by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


SMALL = ("--train", 300, "--valid", 40, "--test", 30)


def test_files_are_determined_by_the_seed(tmp_path):
    for name, hash_seed, seed in (("a", "1", 1), ("b", "2", 1), ("c", "1", 2)):
        result = run("--output", tmp_path / name, *SMALL, "--seed", seed, hash_seed=hash_seed)
        assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert read(tmp_path / "a")["train.en"] != read(tmp_path / "c")["train.en"]


def test_splits_are_disjoint_and_of_the_size_asked_for(tmp_path):
    output = tmp_path / "new" / "corpus"
    for _ in range(2):  # The second run replaces the files of the first.
        demo.main(["--output", str(output), *map(str, SMALL)])
    sizes = {"train": 300, "valid": 40, "test": 30}
    assert sorted(read(output)) == sorted(f"{split}.{side}" for split in sizes for side in ("en", "de"))
    assert [path.name for path in output.parent.iterdir()] == ["corpus"]
    for side in ("en", "de"):
        lines = []
        for split, size in sizes.items():
            text = (output / f"{split}.{side}").read_text(encoding="utf-8")
            assert text.count("\n") == size
            lines += text.splitlines()
        assert len(set(lines)) == sum(sizes.values())
        assert all(line[0].isupper() and line[-1] == "." and 5 <= len(line.split()) <= 22 for line in lines)


def test_test_and_valid_do_not_depend_on_the_size_of_train(tmp_path):
    for size in ("10", "50"):
        demo.main(["--output", str(tmp_path / size), "--train", size, "--valid", "20", "--test", "20"])
    small, large = read(tmp_path / "10"), read(tmp_path / "50")
    assert all(small[name] == large[name] for name in ("test.en", "test.de", "valid.en", "valid.de"))


@pytest.mark.parametrize(("option", "value"), [("--train", "0"), ("--valid", "-3"), ("--test", "many")])
def test_bad_counts_are_named(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path / "corpus"), f"{option}={value}"])
    assert stop.value.code == 2
    assert f"argument {option}: '{value}' is not allowed; allowed: an integer of at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_directory_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes").write_text("keep")
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path), *map(str, SMALL)])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "--output" in message
    assert str(tmp_path) in message
    assert "allowed: a new or empty directory" in message
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_failed_write_leaves_the_earlier_corpus(tmp_path, monkeypatch):
    output = tmp_path / "corpus"
    demo.main(["--output", str(output), *map(str, SMALL)])
    before = read(output)
    original = Path.write_text

    def fail(path, *arguments, **options):
        if path.name == "valid.de":
            raise OSError("disk full")
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(SystemExit):
        demo.main(["--output", str(output), *map(str, SMALL), "--seed", "2"])
    assert read(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
