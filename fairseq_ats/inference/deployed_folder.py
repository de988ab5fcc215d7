"""``fairseq_ats.json``: what is in a folder that translates by itself.

``fairseq-ats-convert --to ctranslate2`` and ``--to onnx`` write a folder with everything that translating text needs:
the network, both dictionaries, the sentencepiece model where there is one, and this description. It is one JSON object
whose keys are the fields of :class:`DeployedFolder`, in UTF-8; all files are named relative to the folder and lie
directly in it.

::

    {
      "schema": 1,
      "format": "ctranslate2",                "ctranslate2" or "onnx"
      "network": "core",                      "core", "super", or "level2", "level3", ... for one between the two
      "level": 1,                             its number: 1 is the core
      "partition": {"module_name": "PartitionedLinear", "small_ratio": 0.25, "max_level": 2},
                                              of the checkpoint that was converted; several ratios are a list
      "source_language": "en",
      "target_language": "de",
      "source_dictionary": "dict.en.txt",     in fairseq's format; pieces and numbers of the network's inputs
      "target_dictionary": "dict.de.txt",     may name the same file
      "sentencepiece_model": "sentencepiece.model",
                                              null: input and output are tokens with spaces between them
      "lowercase": false,                     true: input is lower-cased before it is cut
      "weights": "float32",                   type of the stored weights: CTranslate2's name for it; of ONNX, float32
      "max_source_positions": 1024,           longest input in tokens, with its end-of-sentence
      "max_target_positions": 1024,
      "beam": 5,                              defaults of decoding, with the meaning and the values that they have in
      "max_len_a": 0.0,                       fairseq-generate: at most max_len_a * source length + max_len_b tokens;
      "max_len_b": 200,                       a hypothesis scores its log-probability / length ** length_penalty
      "length_penalty": 1.0,
      "versions": {"fairseq_ats": "0.1.0", "torch": "2.13.0", "ctranslate2": "4.8.5"}
    }                                         of the packages that wrote the folder; for people

Beside it lies ``SHA256SUMS``, with the sums of all files, for :func:`check_sums` and ``sha256sum --check``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_ats.partition.partition import Partition

DESCRIPTION_FILE = "fairseq_ats.json"
SUMS_FILE = "SHA256SUMS"
SCHEMA = 1
FORMATS = ("ctranslate2", "onnx")


@dataclass(frozen=True)
class DeployedFolder:
    """The description of one folder; the fields are explained at the top of this module.

    Raises:
        ValueError: a value outside the allowed ones, or a file that would lie outside the folder.
    """

    format: str
    network: str
    partition: Partition
    source_language: str
    target_language: str
    source_dictionary: str
    target_dictionary: str
    sentencepiece_model: str | None
    lowercase: bool
    weights: str
    max_source_positions: int
    max_target_positions: int
    beam: int = 5
    max_len_a: float = 0.0
    max_len_b: int = 200
    length_penalty: float = 1.0
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; allowed: {', '.join(FORMATS)}")
        if self.network not in self.partition.network_levels:
            raise ValueError(f"network is {self.network!r}; allowed: {', '.join(self.partition.network_levels)}")
        for name in (self.source_dictionary, self.target_dictionary, self.sentencepiece_model):
            if name is not None and (Path(name).name != name or name in ("", ".", "..")):
                raise ValueError(f"{name!r} is not the name of a file that lies directly in the folder")
        if not isinstance(self.lowercase, bool):
            raise ValueError(f"lowercase is {self.lowercase!r}; allowed: true, false")
        for number in ("max_source_positions", "max_target_positions", "beam", "max_len_b"):
            value = getattr(self, number)
            if type(value) is not int or value < 1:
                raise ValueError(f"{number} is {value!r}; allowed: a positive number")
        for number, least in (("max_len_a", 0.0), ("length_penalty", -math.inf)):
            value = getattr(self, number)
            if type(value) not in (int, float) or not math.isfinite(value) or value < least:
                raise ValueError(f"{number} is {value!r}; allowed: a finite number{' from 0 up' if least == 0 else ''}")

    @property
    def max_positions(self) -> tuple[int, int]:
        """As a fairseq model's."""
        return self.max_source_positions, self.max_target_positions

    @property
    def level(self) -> int:
        return self.partition.network_levels[self.network]

    def write(self, folder: Path) -> None:
        """Write the description into ``folder``, and the sums of all files that are in it."""
        content = {"schema": SCHEMA, "level": self.level} | dataclasses.asdict(self)
        (folder / DESCRIPTION_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        sums = "".join(f"{_sum(folder / name)}  {name}\n" for name in sorted(_files_with_sums(folder)))
        (folder / SUMS_FILE).write_text(sums, "utf-8")

    @classmethod
    def read(cls, folder: Path) -> DeployedFolder:
        """The description of the folder that ``fairseq-ats-convert`` wrote.

        Raises:
            ValueError: there is none, it is not of this schema, or a file that it names is missing.
        """
        path = folder / DESCRIPTION_FILE
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder} was not written by fairseq-ats-convert: it has no {DESCRIPTION_FILE}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} is not of schema {SCHEMA}, the one that this version reads")
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            partition = Partition(**content["partition"])
            if content["level"] != partition.network_levels.get(content["network"]):
                raise ValueError(f"network is {content['network']!r} and level is {content['level']!r}")
            description = cls(
                **{name: value for name, value in content.items() if name in names - {"partition"}},
                partition=partition,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a folder of schema {SCHEMA}: {error}") from error
        for name in (description.source_dictionary, description.target_dictionary, description.sentencepiece_model):
            if name is not None and not (folder / name).is_file():
                raise ValueError(f"{path} names {name}, which is not in {folder}")
        return description


def check_sums(folder: Path) -> None:
    """Compare a folder's files with the sums that were written with them.

    The engines would translate with a changed weight as it is. Whoever changes files on purpose can change the sums,
    too: they tell damage, not intent.

    Raises:
        ValueError: a file is missing, damaged or without a sum: engines choose among files by their names.
    """
    try:
        lines = (folder / SUMS_FILE).read_text("utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / SUMS_FILE} cannot be read: {error}; convert the checkpoint anew") from error
    present = _files_with_sums(folder)
    for name in sorted(sums.keys() | present):
        if name not in present or _sum(folder / name) != sums.get(name):
            raise ValueError(f"{folder} is damaged: its {name!r} is not the file that {SUMS_FILE} was written for")


def _files_with_sums(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} - {SUMS_FILE}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
