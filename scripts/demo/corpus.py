#!/usr/bin/env python3
"""Write a seeded parallel English-German corpus, drawn from a small hand-written grammar.

The grammar covers gender, case, adjective declension, plurals, agreement, verb position (second in main clauses, last
in subordinate ones), modals, the perfect with haben or sein, separable verbs and compound numbers. One English sentence
always has the same German translation. Only the standard library is needed, and nothing is downloaded.

    python -m scripts.demo.corpus --output DIR [--train 12000] [--valid 400] [--test 400] [--seed 1]
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

# Classes: English singular and plural, gender, German singular and plural. "-": the noun has no plural.
NOUN_TABLE = {
    "person animate": """
        man men m Mann Männer, woman women f Frau Frauen, child children n Kind Kinder, girl girls n Mädchen Mädchen,
        teacher teachers m Lehrer Lehrer, doctor doctors m Arzt Ärzte, friend friends m Freund Freunde,
        guest guests m Gast Gäste, king kings m König Könige, queen queens f Königin Königinnen,
        sister sisters f Schwester Schwestern, brother brothers m Bruder Brüder, aunt aunts f Tante Tanten,
        uncle uncles m Onkel Onkel, daughter daughters f Tochter Töchter, son sons m Sohn Söhne""",
    "animal animate": """
        dog dogs m Hund Hunde, cat cats f Katze Katzen, horse horses n Pferd Pferde, bird birds m Vogel Vögel,
        cow cows f Kuh Kühe, mouse mice f Maus Mäuse, pig pigs n Schwein Schweine, goose geese f Gans Gänse""",
    "thing text written": "book books n Buch Bücher, letter letters m Brief Briefe",
    "thing text": "newspaper newspapers f Zeitung Zeitungen",
    "thing machine surface": "table tables m Tisch Tische, chair chairs m Stuhl Stühle",
    "thing machine": "lamp lamps f Lampe Lampen, car cars n Auto Autos, clock clocks f Uhr Uhren, "
    "bicycle bicycles n Fahrrad Fahrräder",
    "thing openable": "bag bags f Tasche Taschen, suitcase suitcases m Koffer Koffer",
    "thing": """
        key keys m Schlüssel Schlüssel, picture pictures n Bild Bilder, ball balls m Ball Bälle, hat hats m Hut Hüte,
        dress dresses n Kleid Kleider, umbrella umbrellas m Regenschirm Regenschirme, knife knives n Messer Messer""",
    "opening openable": "door doors f Tür Türen, window windows n Fenster Fenster",
    "food": """
        apple apples m Apfel Äpfel, cake cakes m Kuchen Kuchen, egg eggs n Ei Eier, pear pears f Birne Birnen,
        potato potatoes f Kartoffel Kartoffeln""",
    "drink": "water - n Wasser -, milk - f Milch -, coffee - m Kaffee -",
    "place": """
        garden gardens m Garten Gärten, house houses n Haus Häuser, kitchen kitchens f Küche Küchen,
        school schools f Schule Schulen, park parks m Park Parks, forest forests m Wald Wälder,
        church churches f Kirche Kirchen, village villages n Dorf Dörfer, museum museums n Museum Museen,
        hotel hotels n Hotel Hotels, shop shops m Laden Läden""",
}
# Frame, subject classes, object classes: English base, third person, past and participle, German infinitive
# (prefix+verb where separable), third person, participle and auxiliary. "_" stands for a space in an English form.
VERB_TABLE = {
    ("be", "", ""): "be is was been sein ist gewesen sein",
    ("acc", "animate", "animate thing place"): "see sees saw seen sehen sieht gesehen haben",
    ("acc", "animate", "animate thing"): """
        find finds found found finden findet gefunden haben,
        look_for looks_for looked_for looked_for suchen sucht gesucht haben""",
    ("acc", "animate", "drink"): "drink drinks drank drunk trinken trinkt getrunken haben",
    ("acc", "animate", "animate"): "wake wakes woke woken auf+wecken weckt aufgeweckt haben",
    ("acc", "person", "food"): "eat eats ate eaten essen isst gegessen haben",
    ("acc", "person", "text"): "read reads read read lesen liest gelesen haben",
    ("acc", "person", "thing"): "forget forgets forgot forgotten vergessen vergisst vergessen haben",
    ("acc", "person", "animal food"): "wash washes washed washed waschen wäscht gewaschen haben",
    ("acc", "person", "openable"): "close closes closed closed zu+machen macht zugemacht haben",
    ("acc", "person", "person place"): "visit visits visited visited besuchen besucht besucht haben",
    ("acc", "person", "person"): """
        invite invites invited invited ein+laden lädt eingeladen haben,
        meet meets met met treffen trifft getroffen haben,
        call calls called called an+rufen ruft angerufen haben""",
    ("acc_for", "person", "openable"): "open opens opened opened auf+machen macht aufgemacht haben",
    ("acc_for", "person", "thing food animal"): "buy buys bought bought kaufen kauft gekauft haben",
    ("acc_for", "person", "written"): "write writes wrote written schreiben schreibt geschrieben haben",
    ("acc_for", "person", "thing animal"): "carry carries carried carried tragen trägt getragen haben",
    ("acc_for", "person", "machine"): "repair repairs repaired repaired reparieren repariert repariert haben",
    ("dat", "person", "animate"): "help helps helped helped helfen hilft geholfen haben",
    ("dat", "person", "person"): """
        thank thanks thanked thanked danken dankt gedankt haben,
        answer answers answered answered antworten antwortet geantwortet haben""",
    ("dat", "animate", "animate"): "follow follows followed followed folgen folgt gefolgt sein",
    ("dat_acc", "person", "thing food drink"): """
        give gives gave given geben gibt gegeben haben, bring brings brought brought bringen bringt gebracht haben""",
    ("dat_acc", "person", "thing animal"): """
        show shows showed shown zeigen zeigt gezeigt haben, sell sells sold sold verkaufen verkauft verkauft haben""",
    ("dat_acc", "person", "thing"): "send sends sent sent schicken schickt geschickt haben",
    ("none", "animate", ""): """
        sleep sleeps slept slept schlafen schläft geschlafen haben,
        wait waits waited waited warten wartet gewartet haben,
        fall_asleep falls_asleep fell_asleep fallen_asleep ein+schlafen schläft eingeschlafen sein""",
    ("none", "person", ""): """
        work works worked worked arbeiten arbeitet gearbeitet haben, sing sings sang sung singen singt gesungen haben,
        dance dances danced danced tanzen tanzt getanzt haben,
        arrive arrives arrived arrived an+kommen kommt angekommen sein""",
    ("motion", "animate", ""): """
        go goes went gone gehen geht gegangen sein, run runs ran run laufen läuft gelaufen sein,
        come comes came come kommen kommt gekommen sein""",
    ("that", "person", ""): """
        say says said said sagen sagt gesagt haben, know knows knew known wissen weiß gewusst haben,
        believe believes believed believed glauben glaubt geglaubt haben,
        hope hopes hoped hoped hoffen hofft gehofft haben""",
}
# Group, classes: English, German predicative form and German stem before endings. The order of the groups is that in
# which several adjectives precede a noun, the same in both languages.
ADJECTIVE_TABLE = {
    ("opinion", "animate thing place"): "beautiful schön schön",
    ("opinion", "animate"): "friendly freundlich freundlich, clever klug klug",
    ("opinion", "thing"): "expensive teuer teur, cheap billig billig",
    ("size", "animate thing place opening food"): "big groß groß, small klein klein",
    ("state", "animate"): "hungry hungrig hungrig, tired müde müd, sick krank krank",
    ("state", "person"): "rich reich reich, poor arm arm",
    ("state", "food drink"): "fresh frisch frisch",
    ("state", "drink"): "hot heiß heiß, cold kalt kalt",
    ("age", "animate thing place opening"): "old alt alt",
    ("age", "animate"): "young jung jung",
    ("age", "thing opening"): "new neu neu",
    ("colour", "thing opening food"): "red rot rot, green grün grün",
    ("colour", "thing opening animal"): "white weiß weiß, black schwarz schwarz",
    ("colour", "place"): "dark dunkel dunkl",
}
NAMES = ("Anna", "Peter", "Maria", "Thomas", "Clara", "Jonas", "Lena", "Paul", "Emma", "Felix")
ONES_EN = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
TENS_EN = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()
ONES_DE = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn
    siebzehn achtzehn neunzehn""".split()
TENS_DE = "- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()


class Pair(NamedTuple):
    """A piece of text in both languages."""

    en: str
    de: str


class Case(IntEnum):
    """The German case, as an index into the triples of forms below."""

    NOM = 0
    ACC = 1
    DAT = 2


class Agreement(IntEnum):
    """What a finite verb agrees with, as an index: the first and third person plural share all forms used here."""

    FIRST = 0
    THIRD = 1
    PLURAL = 2


class Tense(IntEnum):
    """PAST is the English simple past; German renders it, like PERFECT, by its perfect tense."""

    PRESENT = 0
    PAST = 1
    PERFECT = 2
    MODAL = 3


def entries(table: str) -> list[list[str]]:
    """Split a table cell into its entries (at commas) and those into words."""
    return [entry.split() for entry in table.split(",")]


def pairs_of(table: str) -> tuple[Pair, ...]:
    """Read "english = german, ..."."""
    return tuple(Pair(*(side.strip() for side in entry.split("="))) for entry in table.split(","))


# Endings by gender ("p": plural of all genders) in the nominative, accusative and dative.
STRONG = {"m": ("er", "en", "em"), "f": ("e", "e", "er"), "n": ("es", "es", "em"), "p": ("e", "e", "en")}
WEAK = {"m": ("e", "en", "en"), "f": ("e", "e", "en"), "n": ("e", "e", "en"), "p": ("en", "en", "en")}
MIXED = {"m": ("er", "en", "en"), "f": ("e", "e", "en"), "n": ("es", "es", "en"), "p": ("en", "en", "en")}
ARTICLE_DER = {"m": ("er", "en", "em"), "f": ("ie", "ie", "er"), "n": ("as", "as", "em"), "p": ("ie", "ie", "en")}
ARTICLE_EIN = {"m": ("", "en", "em"), "f": ("e", "e", "er"), "n": ("", "", "em"), "p": ("e", "e", "en")}
# Determiner: its English plural, German stem, its own endings, and those of the adjectives after it.
DETERMINERS = {
    "the": ("the", "d", ARTICLE_DER, WEAK),
    "this": ("these", "dies", STRONG, WEAK),
    "every": ("", "jed", STRONG, WEAK),
    "a": ("", "ein", ARTICLE_EIN, MIXED),
    "my": ("my", "mein", ARTICLE_EIN, MIXED),
    "our": ("our", "unser", ARTICLE_EIN, MIXED),
    "his": ("his", "sein", ARTICLE_EIN, MIXED),
}
# Prepositions by the case that they govern in the use made of them here.
PREPOSITION_TABLE = {
    Case.DAT: "in = in, behind = hinter, in front of = vor, next to = neben, under = unter, with = mit, from = aus, "
    "out of = aus, to = zu",
    Case.ACC: "into = in, through = durch, for = für, without = ohne",
}
PREPOSITIONS = {en: (de, case) for case, table in PREPOSITION_TABLE.items() for en, de in pairs_of(table)}
CONTRACTIONS = {"in dem": "im", "in das": "ins", "zu dem": "zum", "zu der": "zur"}
FREQUENCIES = pairs_of("often = oft, sometimes = manchmal, usually = meistens")
TIMES = {
    Tense.PRESENT: pairs_of(
        "every day = jeden Tag, every morning = jeden Morgen, in the evening = am Abend, at night = in der Nacht, "
        "in summer = im Sommer, on Mondays = montags"
    ),
    Tense.PAST: pairs_of(
        "yesterday = gestern, last week = letzte Woche, last year = letztes Jahr, on Friday = am Freitag"
    ),
    Tense.PERFECT: pairs_of("today = heute, this week = diese Woche"),
    Tense.MODAL: pairs_of("tomorrow = morgen, next week = nächste Woche, tonight = heute Abend, today = heute"),
}
TIME_UNITS = pairs_of("days = Tagen, weeks = Wochen, months = Monaten, years = Jahren")
# Finite forms by agreement: first person singular, third person singular, plural.
HAVE, HABEN = ("have", "has", "have"), ("habe", "hat", "haben")
AM, BIN = ("am", "is", "are"), ("bin", "ist", "sind")
WAS, WAR = ("was", "was", "were"), ("war", "war", "waren")
MODALS = {
    "can": (("can", "can", "can"), ("kann", "kann", "können")),
    "must": (("must", "must", "must"), ("muss", "muss", "müssen")),
    "should": (("should", "should", "should"), ("sollte", "sollte", "sollten")),
    "want": (("want to", "wants to", "want to"), ("will", "will", "wollen")),
    "will": (("will", "will", "will"), ("werde", "wird", "werden")),
}
# Conjunction: German conjunction, tenses of the main clause, tenses of the subordinate clause beside a main clause
# that is not in the past (beside PAST, it is PAST, so that a form like "read" has one reading).
INNER_TENSES = (Tense.PRESENT, Tense.PERFECT, Tense.MODAL)
CONJUNCTIONS = {
    "because": ("weil", tuple(Tense), INNER_TENSES),
    "although": ("obwohl", tuple(Tense), INNER_TENSES),
    "if": ("wenn", (Tense.PRESENT, Tense.MODAL), (Tense.PRESENT,)),
    "while": ("während", (Tense.PRESENT, Tense.PAST, Tense.MODAL), (Tense.PRESENT,)),
}


class Noun(NamedTuple):
    """A noun; ``plural_de`` is empty for a mass noun."""

    en: str
    plural_en: str
    gender: str
    de: str
    plural_de: str
    classes: tuple[str, ...]


class Verb(NamedTuple):
    """A verb; ``infinitive`` is without the separable ``prefix``, ``participle_de`` with it."""

    base: str
    third: str
    past: str
    participle: str
    prefix: str
    infinitive: str
    third_de: str
    participle_de: str
    auxiliary: str
    frame: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]


class Adjective(NamedTuple):
    """An adjective; ``de`` is the predicative form and ``stem`` what the endings are added to."""

    en: str
    de: str
    stem: str
    group: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Nominal:
    """A noun phrase, name or pronoun: English as subject and object, German in the three cases, and agreement."""

    key: str
    subject: str
    object: str
    de: tuple[str, ...]
    agreement: Agreement = Agreement.THIRD
    is_pronoun: bool = False


@dataclass(frozen=True)
class Clause:
    """The constituents of one clause, before they are put in order."""

    subject: Nominal
    verb: Verb
    tense: Tense
    modal: str = ""
    indirect: Nominal | None = None
    direct: Nominal | None = None
    predicate: Adjective | None = None
    place: Pair | None = None
    adjunct: Pair | None = None
    time: Pair | None = None
    frequency: Pair | None = None
    fronted: bool = False


def read_verb(words: list[str], frame: str, subjects: str, objects: str) -> Verb:
    """Read one entry of the verb table."""
    english = [form.replace("_", " ") for form in words[:4]]
    prefix, _, infinitive = words[4].rpartition("+")
    return Verb(*english, prefix, infinitive, *words[5:], frame, tuple(subjects.split()), tuple(objects.split()))


NOUNS = {
    words[0]: Noun(*words[:4], words[4].strip("-"), tuple(classes.split()))
    for classes, table in NOUN_TABLE.items()
    for words in entries(table)
}
VERBS = {
    words[0].replace("_", " "): read_verb(words, *key) for key, text in VERB_TABLE.items() for words in entries(text)
}
ADJECTIVES = {
    words[0]: Adjective(*words, group, tuple(classes.split()))
    for (group, classes), table in ADJECTIVE_TABLE.items()
    for words in entries(table)
}
PRONOUNS = (
    Nominal("first", "I", "me", ("ich", "mich", "mir"), Agreement.FIRST, True),
    Nominal("first", "we", "us", ("wir", "uns", "uns"), Agreement.PLURAL, True),
    Nominal("he", "he", "him", ("er", "ihn", "ihm"), Agreement.THIRD, True),
    Nominal("she", "she", "her", ("sie", "sie", "ihr"), Agreement.THIRD, True),
    Nominal("they", "they", "them", ("sie", "sie", "ihnen"), Agreement.PLURAL, True),
)


def number_english(n: int) -> str:
    """Spell 1 to 999: a hyphen joins tens and ones, "and" follows the hundreds."""
    hundreds, rest = divmod(n, 100)
    low = ONES_EN[rest] if rest < 20 else TENS_EN[rest // 10] + (f"-{ONES_EN[rest % 10]}" if rest % 10 else "")
    if not hundreds:
        return low
    return f"{ONES_EN[hundreds]} hundred" + (f" and {low}" if rest else "")


def number_german(n: int) -> str:
    """Spell 1 to 999 as one word: ones stand before tens, joined by "und"; "eins" loses its s inside a compound."""
    hundreds, rest = divmod(n, 100)
    one = "ein" if rest % 10 == 1 else ONES_DE[rest % 10]
    low = ONES_DE[rest] if rest < 20 else (f"{one}und" if rest % 10 else "") + TENS_DE[rest // 10]
    if not hundreds:
        return low
    return ("" if hundreds == 1 else ONES_DE[hundreds]) + "hundert" + (low if rest else "")


def with_article(words: str) -> str:
    """Prefix the indefinite article: "an" before a vowel (no word used here is spelt with one but spoken without)."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def join(*parts: str) -> str:
    """Join the parts that are not empty by a space."""
    return " ".join([part for part in parts if part])


def noun_phrase(
    noun: Noun,
    determiner: str = "",
    *,
    plural: bool = False,
    number: int = 0,
    adjectives: tuple[Adjective, ...] = (),
    modifier: Pair | None = None,
) -> Nominal:
    """Decline a noun phrase.

    Adjectives take weak endings after der, dieser and jeder, mixed ones after ein and the possessives, and strong ones
    without a determiner or after a bare number. The dative plural adds -n unless the plural ends in -n or -s.
    """
    plural = plural or number > 1
    gender = "p" if plural else noun.gender
    plural_en, stem, endings, adjective_endings = DETERMINERS.get(determiner, ("", "", None, STRONG))
    article = plural_en if plural else determiner
    head = join(*(a.en for a in adjectives), noun.plural_en if plural else noun.en)
    english = with_article(head) if article == "a" else join(article, number_english(number) if number else "", head)
    english = join(english, modifier.en if modifier else "")
    counted = [number_german(number)] if number else []
    german = []
    for case in Case:
        form = noun.plural_de if plural else noun.de
        if plural and case is Case.DAT and form[-1] not in "ns":
            form += "n"
        words = [stem + endings[gender][case], *counted] if endings else counted
        described = [a.stem + adjective_endings[gender][case] for a in adjectives]
        german.append(join(*words, *described, form, modifier.de if modifier else ""))
    agreement = Agreement.PLURAL if plural else Agreement.THIRD
    return Nominal(noun.en, english, english, tuple(german), agreement)


def name_phrase(name: str) -> Nominal:
    """A name: without an article and the same in all cases."""
    return Nominal(name, name, name, (name, name, name))


def coordinate(first: Nominal, second: Nominal) -> Nominal:
    """Join two noun phrases or names by "and"; the verb is then plural."""
    german = [f"{first.de[case]} und {second.de[case]}" for case in Case]
    english = f"{first.subject} and {second.subject}"
    return Nominal(english, english, english, tuple(german), Agreement.PLURAL)


def prepositional(preposition: str, nominal: Nominal) -> Pair:
    """Put a nominal in the case that the preposition governs; in and zu contract with the definite article."""
    german, case = PREPOSITIONS[preposition]
    article, _, rest = nominal.de[case].partition(" ")
    head = CONTRACTIONS.get(f"{german} {article}", f"{german} {article}")
    return Pair(f"{preposition} {nominal.object}", join(head, rest))


def english_clause(clause: Clause) -> str:
    """Order an English clause: subject, verb, objects, place, adjunct, time (first if fronted).

    The frequency adverb stands before the full verb and thus after the auxiliary.
    """
    verb, agreement = clause.verb, clause.subject.agreement
    often = clause.frequency.en if clause.frequency else ""
    copula = verb.frame == "be"
    if clause.tense is Tense.PERFECT:
        group = join(HAVE[agreement], often, verb.participle)
    elif clause.tense is Tense.MODAL:
        group = join(MODALS[clause.modal][0][agreement], often, verb.base)
    elif clause.tense is Tense.PAST:
        group = join(often, WAS[agreement] if copula else verb.past)
    else:
        regular = verb.third if agreement is Agreement.THIRD else verb.base
        group = join(often, AM[agreement] if copula else regular)
    objects = [nominal.object for nominal in (clause.indirect, clause.direct) if nominal]
    predicate = clause.predicate.en if clause.predicate else ""
    places = [pair.en for pair in (clause.place, clause.adjunct) if pair]
    time = clause.time.en if clause.time else ""
    front, end = (time, "") if clause.fronted else ("", time)
    return join(front, clause.subject.subject, group, predicate, *objects, *places, end)


def german_verb(clause: Clause) -> tuple[str, str, str]:
    """The finite form, the separable prefix that belongs to it, and the infinitive or participle at the clause end.

    The copula has its simple past; other verbs form the perfect with haben or sein.
    """
    verb, agreement = clause.verb, clause.subject.agreement
    if clause.tense is Tense.MODAL:
        return MODALS[clause.modal][1][agreement], "", verb.prefix + verb.infinitive
    if verb.frame == "be":
        return (WAR if clause.tense is Tense.PAST else BIN)[agreement], "", ""
    if clause.tense in (Tense.PAST, Tense.PERFECT):
        return (BIN if verb.auxiliary == "sein" else HABEN)[agreement], "", verb.participle_de
    # The first person ends in -e, but equals the third where that has no -t ("ich weiß, er weiß").
    first = verb.infinitive.removesuffix("n") if verb.third_de.endswith("t") else verb.third_de
    return (first, verb.third_de, verb.infinitive)[agreement], verb.prefix, ""


def german_middle(clause: Clause) -> str:
    """Order what stands between the finite verb and the clause end.

    Pronoun objects come first, then time, the dative and the accusative object, the adjunct, place and predicate. The
    frequency adverb stands before the last object.
    """
    cases = ((clause.indirect, Case.DAT), (clause.direct, Case.ACC))
    pronouns = [n.de[case] for n, case in cases if n and n.is_pronoun]
    objects = [n.de[case] for n, case in cases if n and not n.is_pronoun]
    time = clause.time.de if clause.time and not clause.fronted else ""
    often = clause.frequency.de if clause.frequency else ""
    places = [pair.de for pair in (clause.adjunct, clause.place) if pair]
    predicate = clause.predicate.de if clause.predicate else ""
    return join(*pronouns, time, *objects[:-1], often, *objects[-1:], *places, predicate)


def german_main(clause: Clause, *, inverted: bool = False) -> str:
    """Order a main clause: the finite verb is second.

    The subject follows it if an adverbial is fronted, or if ``inverted``: a subordinate clause stands in front.
    """
    finite, prefix, final = german_verb(clause)
    subject = clause.subject.de[Case.NOM]
    front = clause.time.de if clause.time and clause.fronted else ""
    start = join(front, finite, subject) if front or inverted else join(subject, finite)
    return join(start, german_middle(clause), prefix, final)


def german_subordinate(clause: Clause) -> str:
    """Order a subordinate clause: the finite verb is last and keeps its separable prefix."""
    finite, prefix, final = german_verb(clause)
    return join(clause.subject.de[Case.NOM], german_middle(clause), final, prefix + finite)


def random_number(rng: Random) -> int:
    """Draw a number of at least 2, without those in -01: a noun after them would be singular or plural."""
    n = rng.randint(2, 20) if rng.random() < 0.4 else rng.randint(21, 99 if rng.random() < 0.75 else 999)
    return n if n % 100 != 1 else n + 1


@cache
def nouns_of(classes: tuple[str, ...]) -> tuple[Noun, ...]:
    """The nouns of one of the classes."""
    return tuple(noun for noun in NOUNS.values() if any(c in classes for c in noun.classes))


@cache
def adjectives_of(classes: tuple[str, ...]) -> tuple[Adjective, ...]:
    """The adjectives that go with a noun of these classes."""
    return tuple(adjective for adjective in ADJECTIVES.values() if any(c in classes for c in adjective.classes))


@cache
def verbs_of(frame: str) -> tuple[Verb, ...]:
    """The verbs of a frame; those that may take a phrase with "for" ("acc_for") count as "acc"."""
    return tuple(verb for verb in VERBS.values() if verb.frame.removesuffix("_for") == frame)


def random_noun_phrase(rng: Random, classes: tuple[str, ...], used: set[str], *, bare: bool = False) -> Nominal:
    """Draw a noun phrase of one of the classes, not of a ``used`` noun if any other is left; ``bare``: undescribed."""
    noun = rng.choice([n for n in nouns_of(classes) if n.en not in used] or nouns_of(classes))
    used.add(noun.en)
    plural = bool(noun.plural_de) and rng.random() < 0.3
    number = random_number(rng) if plural and rng.random() < 0.4 else 0
    owned = ("my", "our", "his")
    if not noun.plural_de:
        determiner = rng.choice(("", "", "the", *owned))
    elif plural:
        determiner = rng.choice(("", "", "the", "the", "this", *owned))
    else:
        determiner = rng.choice(("the", "the", "the", "the", "a", "a", "a", "a", "this", "every", *owned))
    adjectives: list[Adjective] = []
    fitting = adjectives_of(noun.classes)
    if fitting and not bare and rng.random() < 0.5:
        adjectives = rng.sample(fitting, k=min(len(fitting), 1 if rng.random() < 0.75 else 2))
        adjectives.sort(key=fitting.index)
        if len({a.group for a in adjectives}) < len(adjectives):
            adjectives = adjectives[:1]
    modifier = None
    if "person" in noun.classes and not bare and rng.random() < 0.15:
        preposition, inner = ("from", ("place",)) if rng.random() < 0.3 else ("with", ("thing", "animal"))
        modifier = prepositional(preposition, random_noun_phrase(rng, inner, used))
    return noun_phrase(noun, determiner, plural=plural, number=number, adjectives=tuple(adjectives), modifier=modifier)


def random_nominal(
    rng: Random, classes: tuple[str, ...], used: set[str], *, pair: bool = False, bare: bool = False
) -> Nominal:
    """Draw a pronoun or name (for persons only), a noun phrase or, with ``pair``, two joined by "and"."""
    draw = rng.random()
    if ("person" in classes or "animate" in classes) and draw < 0.35:
        options = [p for p in PRONOUNS if p.key not in used] if draw < 0.18 else []
        chosen = rng.choice(options or [name_phrase(name) for name in NAMES if name not in used])
        used.add(chosen.key)
        return chosen
    if pair and draw > 0.9:
        return coordinate(*(random_noun_phrase(rng, classes, used, bare=bare) for _ in range(2)))
    return random_noun_phrase(rng, classes, used, bare=bare)


def random_time(rng: Random, tense: Tense) -> Pair:
    """Draw an adverbial of time that goes with the tense."""
    if tense is Tense.PAST and rng.random() < 0.3:
        unit, n = rng.choice(TIME_UNITS), rng.randint(2, 40)
        return Pair(f"{number_english(n)} {unit.en} ago", f"vor {number_german(n)} {unit.de}")
    return rng.choice(TIMES[tense])


def random_clause(rng: Random, tense: Tense, frame: str = "", *, time: float = 0.3, front: float = 0.5) -> Clause:
    """Draw a clause, with an adverbial of time with probability ``time`` and that fronted with ``front``."""
    frame = frame or rng.choices(("acc", "dat", "dat_acc", "none", "motion", "be"), (42, 11, 16, 14, 12, 5))[0]
    if frame == "be" and tense in (Tense.PERFECT, Tense.MODAL):
        frame = "acc"
    verb = rng.choice(verbs_of(frame))
    used: set[str] = set()
    predicate = rng.choice(list(ADJECTIVES.values())) if frame == "be" else None
    subjects = predicate.classes if predicate else verb.subjects
    subject = random_nominal(rng, subjects, used, pair=True, bare=frame == "be")
    indirect = random_nominal(rng, ("person",), used, bare=True) if frame == "dat_acc" else None
    direct = random_noun_phrase(rng, verb.objects, used) if frame == "dat_acc" else None
    if frame == "acc":
        direct = random_nominal(rng, verb.objects, used)
    elif frame == "dat":
        indirect = random_nominal(rng, verb.objects, used)
    place = adjunct = when = often = None
    if frame == "motion" or (frame in ("acc", "none") and "place" not in verb.objects and rng.random() < 0.35):
        static = "in", "in", "behind", "in front of", "next to", "under"
        preposition = rng.choice(("into", "to", "through", "out of") if frame == "motion" else static)
        classes = ("surface",) if preposition == "under" else ("place",)
        place = prepositional(preposition, random_noun_phrase(rng, classes, used))
    if verb.frame == "acc_for" and rng.random() < 0.35:
        adjunct = prepositional("for", random_nominal(rng, ("person",), used, bare=True))
    elif frame in ("none", "motion") and rng.random() < 0.4:
        companion = random_nominal(rng, ("animate",), used, bare=True)
        adjunct = prepositional(rng.choice(("with", "without")), companion)
    if rng.random() < time and (frame != "be" or tense is Tense.PAST):
        when = random_time(rng, tense)
    elif tense in (Tense.PRESENT, Tense.PERFECT) and frame != "be" and rng.random() < 0.25:
        often = rng.choice(FREQUENCIES[: 3 if tense is Tense.PRESENT else 1])
    modal = rng.choice(list(MODALS)) if tense is Tense.MODAL else ""
    fronted = when is not None and rng.random() < front
    return Clause(
        subject, verb, tense, modal, indirect, direct, predicate, place, adjunct, when, often, fronted=fronted
    )


def random_tense(rng: Random, tenses: tuple[Tense, ...]) -> Tense:
    """Draw one of the tenses by weight."""
    weights = {Tense.PRESENT: 40, Tense.PAST: 25, Tense.PERFECT: 13, Tense.MODAL: 22}
    return rng.choices(tenses, [weights[tense] for tense in tenses])[0]


def random_root(rng: Random, tense: Tense, frame: str = "", *, front: float = 0.5) -> Clause:
    """Draw a main clause; in the past it has an adverbial of time, so that "they read" is past only beside one."""
    time = 1.0 if tense is Tense.PAST else 0.0 if frame == "that" else 0.35
    return random_clause(rng, tense, frame, time=time, front=front)


def random_sentence(rng: Random) -> Pair:
    """Draw a sentence: one clause, two joined by "and" or "but", or a main and a subordinate clause.

    German sets off every subordinate clause by a comma; English only one that stands in front.
    """
    shape = rng.choices(("simple", "joined", "that", "after", "before"), (42, 13, 13, 20, 12))[0]
    if shape == "simple":
        clause = random_root(rng, random_tense(rng, tuple(Tense)))
        english, german = english_clause(clause), german_main(clause)
    elif shape == "joined":
        tense = random_tense(rng, tuple(Tense))
        other = tense if tense is Tense.PAST else random_tense(rng, INNER_TENSES)
        first, second = random_root(rng, tense), random_clause(rng, other, time=0.2)
        link = rng.choice((Pair(" and ", " und "), Pair(", but ", ", aber ")))
        english = english_clause(first) + link.en + english_clause(second)
        german = german_main(first) + link.de + german_main(second)
    elif shape == "that":
        main = random_root(rng, random_tense(rng, (Tense.PRESENT, Tense.PAST)), "that")
        other = main.tense if main.tense is Tense.PAST else random_tense(rng, INNER_TENSES)
        inner = random_clause(rng, other, time=0.0 if other is Tense.PAST else 0.2, front=0)
        english = f"{english_clause(main)} that {english_clause(inner)}"
        german = f"{german_main(main)}, dass {german_subordinate(inner)}"
    else:
        word = rng.choice(list(CONJUNCTIONS))
        conjunction, main_tenses, tenses = CONJUNCTIONS[word]
        tense = random_tense(rng, main_tenses)
        main = random_root(rng, tense, front=0.5 if shape == "after" else 0)
        other = tense if tense is Tense.PAST else random_tense(rng, tenses)
        inner = random_clause(rng, other, time=0.0 if other is Tense.PAST else 0.2, front=0)
        english_inner, german_inner = f"{word} {english_clause(inner)}", f"{conjunction} {german_subordinate(inner)}"
        if shape == "after":
            english, german = f"{english_clause(main)} {english_inner}", f"{german_main(main)}, {german_inner}"
        else:
            english = f"{english_inner}, {english_clause(main)}"
            german = f"{german_inner}, {german_main(main, inverted=True)}"
    return Pair(english[0].upper() + english[1:] + ".", german[0].upper() + german[1:] + ".")


def make_pairs(rng: Random, count: int) -> list[Pair]:
    """Draw ``count`` pairs of 5 to 22 words a side; no sentence of either language occurs twice."""
    pairs: dict[str, str] = {}
    seen: set[str] = set()
    while len(pairs) < count:
        pair = random_sentence(rng)
        if pairs.get(pair.en, pair.de) != pair.de:
            raise RuntimeError(f"two translations of {pair.en!r}: {pairs[pair.en]!r} and {pair.de!r}")
        if all(5 <= len(side.split()) <= 22 for side in pair) and pair.de not in seen:
            pairs[pair.en] = pair.de
            seen.add(pair.de)
    return [Pair(en, de) for en, de in pairs.items()]


def write_corpus(output: Path, splits: dict[str, list[Pair]]) -> None:
    """Write the files into a directory beside ``output``, which then takes its name.

    An ``output`` that holds anything but files of this corpus is left alone: ValueError.
    """
    output = output.resolve()
    names = [f"{split}.{side}" for split in splits for side in Pair._fields]
    if output.exists() and not (output.is_dir() and all(entry.name in names for entry in output.iterdir())):
        raise ValueError("exists and is not a directory of this corpus alone; allowed: a new or empty directory")
    partial, replaced = (output.with_name(f".{output.name}.{os.getpid()}.{end}") for end in ("partial", "replaced"))
    try:
        partial.mkdir(parents=True)
        for split, pairs in splits.items():
            for side in Pair._fields:
                text = "".join(f"{getattr(pair, side)}\n" for pair in pairs)
                (partial / f"{split}.{side}").write_text(text, encoding="utf-8", newline="\n")
        if output.exists():
            output.rename(replaced)
        try:
            partial.rename(output)
        except OSError:
            if replaced.exists():
                replaced.rename(output)
            raise
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def positive(text: str) -> int:
    """Read a count from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: an integer of at least 1")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Read the options and write the corpus; test and valid do not depend on the size of train."""
    parser = argparse.ArgumentParser(description="Write a seeded English-German demo corpus.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory to write")
    sizes = {"train": 12000, "valid": 400, "test": 400}
    for split, size in sizes.items():
        parser.add_argument(f"--{split}", type=positive, default=size, metavar="N", help=f"pairs (default {size})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed (default 1)")
    args = parser.parse_args(argv)
    pairs = make_pairs(Random(args.seed), args.train + args.valid + args.test)
    test, valid, train = pairs[: args.test], pairs[args.test : args.test + args.valid], pairs[args.test + args.valid :]
    try:
        write_corpus(args.output, {"train": train, "valid": valid, "test": test})
    except (OSError, ValueError) as error:
        parser.error(f"argument --output: {str(args.output)!r}: {error}")


if __name__ == "__main__":
    main()
