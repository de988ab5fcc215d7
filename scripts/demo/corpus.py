#!/usr/bin/env python3
"""Write a seeded English-German corpus: who did what with how many things, where, and on which day.

    python -m scripts.demo.corpus --output DIR [--seed 1]

A translation has to put the ones of a number before its tens, in one word (forty-two, zweiundvierzig); the verb second,
or last after "weil"; and its participle or infinitive after all else. One English sentence always has the same German
one. Needs the standard library only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

SIZES = {"test": 400, "valid": 400, "train": 12000}
LANGUAGES = ("en", "de")
# English = German; of a verb, past and base form = participle and infinitive.
VERBS = """bought buy = gekauft kaufen, sold sell = verkauft verkaufen, found find = gefunden finden, counted count =
    gezählt zählen, repaired repair = repariert reparieren, painted paint = gestrichen streichen, washed wash =
    gewaschen waschen, lost lose = verloren verlieren, hid hide = versteckt verstecken, carried carry = getragen
    tragen"""
THINGS = """apples = Äpfel, books = Bücher, letters = Briefe, lamps = Lampen, chairs = Stühle, tables = Tische,
    clocks = Uhren, bags = Taschen, keys = Schlüssel, hats = Hüte, knives = Messer, eggs = Eier, balls = Bälle,
    pictures = Bilder"""
ADJECTIVES = """green = grüne, red = rote, old = alte, new = neue, small = kleine, big = große, expensive = teure,
    cheap = billige, heavy = schwere, beautiful = schöne"""
PLACES = """in the garden = im Garten, in the house = im Haus, in the kitchen = in der Küche, at school = in der
    Schule, in the park = im Park, in the church = in der Kirche, in the village = im Dorf"""
# The number after a subject is that of its verb forms below.
SUBJECTS = """I 0 = ich 0, he 1 = er 1, she 1 = sie 1, we 2 = wir 2, they 2 = sie 2, Anna 1 = Anna 1, Peter 1 = Peter
    1, Maria 1 = Maria 1, Thomas 1 = Thomas 1, the teacher 1 = der Lehrer 1, the doctor 1 = die Ärztin 1, the
    children 2 = die Kinder 2"""
HABEN, WERDEN = ("habe", "hat", "haben"), ("werde", "wird", "werden")
DAYS = """Monday = Montag, Tuesday = Dienstag, Wednesday = Mittwoch, Thursday = Donnerstag, Friday = Freitag,
    Saturday = Samstag, Sunday = Sonntag"""
MONTHS = """January = Januar, February = Februar, March = März, April = April, May = Mai, June = Juni, July = Juli,
    August = August, September = September, October = Oktober, November = November, December = Dezember"""
ONES_EN = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
TENS_EN = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES_DE = """null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
    siebzehn achtzehn neunzehn""".split()
TENS_DE = "- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
ORDINALS_EN = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
ORDINALS_EN |= {"twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth"}
ORDINALS_DE = {1: "ersten", 3: "dritten", 7: "siebten", 8: "achten"}


def number(n: int) -> tuple[str, str]:
    """Return a number below 1,000 in both languages, as it stands before a noun."""
    if n >= 100:
        english, german = f"{ONES_EN[n // 100]} hundred", ONES_DE[n // 100].removeprefix("ein") + "hundert"
        rest = number(n % 100)
        return (f"{english} and {rest[0]}", german + rest[1]) if n % 100 else (english, german)
    if n < 20:
        return ONES_EN[n], ONES_DE[n]
    tens, ones = divmod(n, 10)
    if not ones:
        return TENS_EN[tens], TENS_DE[tens]
    return f"{TENS_EN[tens]}-{ONES_EN[ones]}", f"{ONES_DE[ones]}und{TENS_DE[tens]}"


def ordinal(n: int) -> tuple[str, str]:
    """Return an ordinal up to 31; the German one in the dative."""
    english, german = number(n)
    tens, hyphen, last = english.rpartition("-")
    ending = "ten" if n < 20 else "sten"
    return tens + hyphen + ORDINALS_EN.get(last, f"{last}th"), ORDINALS_DE.get(n, german + ending)


def draw(rng: Random, table: str) -> list[tuple[str, ...]]:
    """Draw an entry of a table; return the words of either side."""
    return [tuple(side.split()) for side in rng.choice(table.split(",")).split("=")]


def clause(rng: Random, subordinate: bool = False) -> tuple[str, str]:
    """Return a random clause in both languages; German puts the finite verb second, or last if it is subordinate."""
    (*who, form), (*wer, _) = draw(rng, SUBJECTS)
    (past, base), (participle, infinitive) = draw(rng, VERBS)
    n = rng.randint(2, rng.choice((20, 99, 99, 999)))
    many, viele = number(n + (n % 100 == 1))  # after a number in -01, German has a singular or a plural
    adjective, thing, place, day, month = (
        [" ".join(side) for side in draw(rng, table)] for table in (ADJECTIVES, THINGS, PLACES, DAYS, MONTHS)
    )
    date = ordinal(rng.randint(1, 31))
    when = f"on {day[0]}, the {date[0]} of {month[0]}", f"am {day[1]}, dem {date[1]} {month[1]},"
    has_date, has_place, is_past = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.6
    first = has_date and not subordinate and rng.random() < 0.5
    finite, last = (HABEN, participle) if is_past else (WERDEN, infinitive)
    english = [f"{when[0]}," * first, *who, past if is_past else f"will {base}", many, adjective[0], thing[0]]
    english += [place[0] * has_place, when[0] * (has_date and not first)]
    middle = [when[1] * (has_date and not first), viele, adjective[1], thing[1], place[1] * has_place, last]
    if subordinate:
        german = [*wer, *middle, finite[int(form)]]
    elif first:
        german = [when[1], finite[int(form)], *wer, *middle]
    else:
        german = [*wer, finite[int(form)], *middle]
    return " ".join(filter(None, english)), " ".join(filter(None, german))


def sentence(rng: Random) -> tuple[str, str]:
    """Return a random sentence of one clause or two in both languages."""
    english, german = clause(rng)
    if rng.random() < 0.3:
        subordinate = rng.random() < 0.5
        second = clause(rng, subordinate)
        links = (" because ", ", weil ") if subordinate else (", and ", ", und ")
        english, german = english + links[0] + second[0], german + links[1] + second[1]
    return english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + "."


def sentences(seed: int, count: int) -> list[tuple[str, str]]:
    """Return ``count`` pairs; no sentence of either language occurs twice."""
    rng, pairs, germans = Random(seed), {}, set()
    while len(pairs) < count:
        english, german = sentence(rng)
        if english not in pairs and german not in germans:
            pairs[english] = german
            germans.add(german)
    return list(pairs.items())


def main(arguments: list[str] | None = None) -> None:
    """Write DIR/SPLIT.LANGUAGE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    args = parser.parse_args(arguments)
    ours = {f"{split}.{language}" for split in SIZES for language in LANGUAGES}
    if args.output.is_dir() and any(path.name not in ours for path in args.output.iterdir()):
        parser.error(f"argument --output: {args.output} holds other files; allowed: a new or empty folder")
    args.output.mkdir(parents=True, exist_ok=True)
    pairs = iter(sentences(args.seed, sum(SIZES.values())))
    for split, size in SIZES.items():
        chosen = [next(pairs) for _ in range(size)]
        for language, lines in zip(LANGUAGES, zip(*chosen, strict=True), strict=True):
            (args.output / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
