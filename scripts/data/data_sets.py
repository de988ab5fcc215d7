"""Describe the data sets: their addresses, their licences, and how to make raw text from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fairseq_ats.data.binarise import fits
from scripts.data.archives import Archive, member_lines
from scripts.data.parallel_text import (
    Pair,
    held_out,
    in_step,
    moses_normaliser,
    moses_token_counter,
    segments,
    talk_lines,
)

SplitPairs = Iterator[tuple[str, Pair]]


@dataclass(frozen=True)
class DataSet:
    """A data set and the recipe that prepares it.

    Args:
        name: the name in the script's name, and the name of the folder under ``runs/``.
        archives: the archives, by the names that ``pairs`` uses.
        download: the approximate size of the downloads in megabytes.
        disk: the most disk space that the archives, text, pieces and binarised data take together, in megabytes.
        lowercase, vocabulary, longest, ratio, sample: options of ``fairseq-ats binarise``. None means not used.
        pairs: a function from the paths of the archives to the sentence pairs, each with its split.
        test_lines: the number of sentence pairs in the test set of the literature. None means not checked.
    """

    name: str
    title: str
    source: str
    target: str
    licence: str
    archives: dict[str, Archive]
    download: int
    disk: int
    vocabulary: int
    pairs: Callable[[DataSet, dict[str, Path]], SplitPairs]
    lowercase: bool = False
    longest: int | None = None
    ratio: float | None = None
    sample: int | None = None
    test_lines: int | None = None


def named(archive: Path, members: tuple[str, str]) -> tuple[str, str]:
    """Return the names of two members of an archive for an error message."""
    return f"{archive}: {members[0]}", members[1]


def iwslt14_pairs(data_set: DataSet, paths: dict[str, Path]) -> SplitPairs:
    """Yield IWSLT'14 as fairseq's prepare-iwslt14.sh does.

    Keep pairs with at most 175 Moses tokens and a length ratio of at most 1.5. Hold out every 23rd pair for validation.
    """
    path = paths["talks"]
    languages = (data_set.source, data_set.target)
    train = tuple(f"de-en/train.tags.de-en.{language}" for language in languages)
    pairs = in_step(*(talk_lines(member_lines(path, member)) for member in train), named(path, train))
    source_tokens, target_tokens = (moses_token_counter(language) for language in languages)
    kept = (pair for pair in pairs if fits(source_tokens(pair[0]), target_tokens(pair[1]), longest=175, ratio=1.5))
    yield from held_out(kept, 23)
    for part in ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"):
        test = tuple(f"de-en/IWSLT14.{part}.de-en.{language}.xml" for language in languages)
        for pair in in_step(*(segments(member_lines(path, member)) for member in test), named(path, test)):
            yield "test", pair


IWSLT14 = DataSet(
    name="iwslt14",
    title="IWSLT'14 German→English, 0.17 M sentence pairs of TED talks",
    source="de",
    target="en",
    licence="TED talks, Creative Commons BY-NC-ND 4.0: not for commercial use (https://wit3.fbk.eu, https://www.ted.com)",
    # wit3.fbk.eu no longer serves it. fairseq's own script downloads this copy. No trustworthy checksum is published.
    archives={"talks": Archive("https://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz")},
    download=20,  # fairseq issue 1493 shows that wget got 19,982,877 bytes from wit3.fbk.eu
    disk=300,
    vocabulary=10000,
    lowercase=True,
    pairs=iwslt14_pairs,
    test_lines=6750,  # 887 + 1,165 + 1,565 + 1,433 + 1,700
)


def wmt17_pairs(data_set: DataSet, paths: dict[str, Path]) -> SplitPairs:
    """Yield WMT'17 as fairseq's prepare-wmt14en2de.sh does.

    Normalise punctuation, and hold out every 100th pair for validation. As in that script, length and ratio are limited
    later and counted in pieces (``fairseq-ats binarise``).
    """
    languages = (data_set.source, data_set.target)
    normalise = [moses_normaliser(language) for language in languages]

    def training() -> Iterator[Pair]:
        corpora = {
            "europarl": "training/europarl-v7.de-en",
            "commoncrawl": "commoncrawl.de-en",
            "news-commentary": "training/news-commentary-v12.de-en",
        }
        for name, member in corpora.items():
            members = tuple(f"{member}.{language}" for language in languages)
            both = (member_lines(paths[name], member) for member in members)
            for source, target in in_step(*both, named(paths[name], members)):
                yield normalise[0](source), normalise[1](target)

    yield from held_out(training(), 100)
    test = ("test-full/newstest2014-deen-src.en.sgm", "test-full/newstest2014-deen-ref.de.sgm")
    for pair in in_step(
        *(segments(member_lines(paths["test"], member)) for member in test), named(paths["test"], test)
    ):
        yield "test", pair


WMT17 = DataSet(
    name="wmt17",
    title="WMT'17 English→German, 4.6 M sentence pairs (europarl v7, commoncrawl, news-commentary v12); newstest2014",
    source="en",
    target="de",
    licence="free for research; cite WMT and the corpora (https://www.statmt.org/wmt17/translation-task.html)",
    # sha256: TensorFlow Datasets, tensorflow_datasets/url_checksums/wmt17_translate.txt.
    # md5 of the test set: sacreBLEU, sacrebleu/dataset/__init__.py, wmt14/full.
    archives={
        "europarl": Archive(
            "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
            "sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7",
        ),
        "commoncrawl": Archive(
            "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
            "sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5",
        ),
        "news-commentary": Archive(
            "https://data.statmt.org/wmt17/translation-task/training-parallel-nc-v12.tgz",
            "sha256:2b45f30ef1d550d302fd17dd3a5cbe19134ccc4c2cf50c2dae534aee600101a2",
        ),
        "test": Archive(
            "https://statmt.org/wmt14/test-full.tgz",
            "md5:a8cd784e006feb32ac6f3d9ec7eb389a",
        ),
    },
    download=1750,
    disk=9000,
    vocabulary=32000,
    longest=250,
    ratio=1.5,
    sample=2_000_000,
    pairs=wmt17_pairs,
    test_lines=3003,
)

MULTI30K_LICENCE = "captions of Flickr30k images, for non-commercial research (https://github.com/multi30k/dataset)"
MULTI30K_ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
MULTI30K_FILES = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
