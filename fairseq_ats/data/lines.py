"""Read, write and count the lines of text files: a line ends at a newline and nowhere else, as fairseq counts lines."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

_GZIP = b"\x1f\x8b"  # how a gzip file begins
# Unicode's categories of spaces, line separators, control and formatting characters.
_UNSEEN = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf"))


def read_lines(path: Path, name: Path | None = None) -> Iterator[str]:
    """Yield the lines of a file, without their newlines.

    Args:
        name: file to name in an error; default: ``path``.

    Raises:
        ValueError: the file is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                if number == 1 and line.startswith(_GZIP):
                    raise ValueError(f"{name or path} is compressed once more than its name says") from error
                raise ValueError(f"{name or path} is not UTF-8: line {number}: {error}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, with a newline after each."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def count_lines(lines: Iterable[str], name: str | Path) -> tuple[int, int]:
    """Return the number of lines, and how many of them are blank: a reader sees nothing in them.

    Args:
        name: file to name in an error.

    Raises:
        ValueError: all lines are blank.
    """
    total = blank = 0
    for line in lines:
        total += 1
        blank += all(unicodedata.category(character) in _UNSEEN for character in line)
    if total > 0 and blank == total:
        raise ValueError(f"{name} is blank: nothing is in any of its {total:,} lines")
    return total, blank


def raw_lines(data: Path, language: str) -> list[str]:
    """Return one side of the raw test set, which ``fairseq-ats binarise`` puts beside the binarised data.

    Raises:
        ValueError: there is none, or it is not UTF-8.
    """
    path = data / f"test.{language}"
    if not path.is_file():
        raise ValueError(f"{data} has no {path.name}, the raw references that fairseq-ats binarise puts there")
    return list(read_lines(path))


def raw_references(data: Path, language: str) -> list[str]:
    """Return the raw references, and print how many are blank.

    Raises:
        ValueError: there are none, or all are blank.
    """
    lines = raw_lines(data, language)
    path = data / f"test.{language}"
    _, blank = count_lines(lines, path)
    if blank > 0:
        print(f"{path}: {blank:,} of {len(lines):,} references are blank", flush=True)
    return lines
