"""Read and write ``fairseq_ats.json``, the description of a folder that needs no other files to translate.

``fairseq-ats-convert --to ctranslate2``, ``--to onnx`` and ``--to huggingface`` write a folder with everything that
translating text needs: the network, both dictionaries, the sentencepiece model if there is one, and this description.
The description is one JSON object in UTF-8. Its keys are ``schema``, ``level`` and the fields of
:class:`DeployedFolder`. All files lie directly in the folder and are named relative to it.

::

    {
      "schema": 1,
      "format": "ctranslate2",                "ctranslate2", "onnx" or "huggingface"
      "network": "core",                      "core", "super", or "level2", "level3", ... for one between them;
                                              "perturbed": what --scheme prune left of the highest
      "level": 1,                             number of the network: 1 is the core, 0 the perturbed network
      "partition": {"module_name": "PartitionedLinear", "small_ratio": 0.25, "max_level": 2},
                                              partition of the converted checkpoint; several ratios are a list. It has
                                              further keys for a depth, other linear layers, and private norms
      "source_language": "en",
      "target_language": "de",
      "source_dictionary": "dict.en.txt",     in fairseq's format: the network's input pieces and their ids
      "target_dictionary": "dict.de.txt",     may be the same file
      "sentencepiece_model": "sentencepiece.model",
                                              null: input and output are tokens with spaces between them
      "lowercase": false,                     true: lower-case the input before it is cut into pieces
      "weights": "float32",                   type of the stored weights: CTranslate2's name; for ONNX float32, int8
      "max_source_positions": 1024,           longest input in tokens, including the end-of-sentence
      "max_target_positions": 1024,           longest output in tokens, including the end-of-sentence
      "beam": 5,                              defaults of decoding, with the same meaning and values as in
      "max_len_a": 0.0,                       fairseq-generate: at most max_len_a * source length + max_len_b tokens;
      "max_len_b": 200,                       the score of a hypothesis is log-probability / length ** length_penalty
      "length_penalty": 1.0,
      "versions": {"fairseq_ats": "0.1.0", "torch": "2.13.0", "ctranslate2": "4.8.5"}
    }                                         versions of the packages that wrote the folder, for information

The folder also has the file ``SHA256SUMS`` with the sums of all other files, for :func:`check_sums` and for
``sha256sum --check``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq_ats.data.text import Languages
from fairseq_ats.files import sha256_of
from fairseq_ats.partition.partition import PERTURBED, PERTURBED_LEVEL, Partition

DESCRIPTION_FILE = "fairseq_ats.json"
SUMS_FILE = "SHA256SUMS"
SCHEMA = 1
FORMATS = ("ctranslate2", "onnx", "huggingface")


@dataclass(frozen=True)
class DeployedFolder:
    """The description of one folder; the docstring of this module explains the fields.

    Raises:
        ValueError: a field has a value outside its allowed values, or names a file outside the folder.
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
        if self.network not in levels_of(self.partition):
            raise ValueError(f"network is {self.network!r}; allowed: {', '.join(levels_of(self.partition))}")
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
    def languages(self) -> Languages:
        return self.source_language, self.target_language

    @property
    def max_positions(self) -> tuple[int, int]:
        """The longest source and the longest target in tokens, as a fairseq model returns them."""
        return self.max_source_positions, self.max_target_positions

    @property
    def level(self) -> int:
        """The number of the network: 1 is the core."""
        return levels_of(self.partition)[self.network]

    def write(self, folder: Path) -> None:
        """Write the description into ``folder``, then the SHA-256 sums of all files in it."""
        content = {"schema": SCHEMA, "level": self.level} | dataclasses.asdict(self)
        content["partition"] = self.partition.to_dict()
        write_description(folder, content)

    @classmethod
    def read(cls, folder: Path) -> DeployedFolder:
        """Read the description of a folder that ``fairseq-ats-convert`` wrote.

        Raises:
            ValueError: the folder has no description, the description has another schema or a wrong value, or a file
                that it names is missing.
        """
        path = folder / DESCRIPTION_FILE
        try:
            content = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder} was not written by fairseq-ats-convert: it has no {DESCRIPTION_FILE}") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{path} is not of schema {SCHEMA}, the only one that this version reads")
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            partition = Partition.from_dict(content["partition"])
            if content["level"] != levels_of(partition).get(content["network"]):
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


def levels_of(partition: Partition) -> dict[str, int]:
    """Map from name to level of every network that a folder may hold."""
    return partition.network_levels | {PERTURBED: PERTURBED_LEVEL}


def write_description(folder: Path, content: dict[str, Any]) -> None:
    """Write ``fairseq_ats.json``, then the SHA-256 sums of all files in ``folder``."""
    (folder / DESCRIPTION_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sums = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(_files_with_sums(folder)))
    (folder / SUMS_FILE).write_text(sums, "utf-8")


def check_sums(folder: Path) -> None:
    """Compare a folder's files with their SHA-256 sums in ``SHA256SUMS``.

    The engines do not detect a changed weight, and would translate with it. The sums detect damage only: a person who
    changes files on purpose can also change the sums.

    Raises:
        ValueError: a file is missing, is damaged or has no sum, or the sums cannot be read. A file without a sum is an
            error because engines choose among files by their names.
    """
    try:
        lines = (folder / SUMS_FILE).read_text("utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / SUMS_FILE} cannot be read: {error}; convert the checkpoint again") from error
    present = _files_with_sums(folder)
    for name in sorted(sums.keys() | present):
        if name not in present or sha256_of(folder / name) != sums.get(name):
            raise ValueError(f"{folder} is damaged: its {name!r} does not match {SUMS_FILE}")


def _files_with_sums(folder: Path) -> set[str]:
    """Return the names of all files in the folder, except ``SHA256SUMS`` itself."""
    return {path.name for path in folder.iterdir() if path.is_file()} - {SUMS_FILE}
