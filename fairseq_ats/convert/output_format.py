"""What the formats have in common: refuse, write, and say what the written network computes."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from fairseq_ats.convert.source_network import SourceNetwork


class OutputFormat(ABC):
    """A format that a network is converted to; its attributes are the options of that conversion."""

    is_folder: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ()

    def require_packages(self) -> None:
        """Raises ValueError, with what to install, if a package of this format is missing."""
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ValueError(
                    f"this format needs the package {package} ({error}); pip install 'fairseq-ats[deploy]' installs it"
                ) from error

    @abstractmethod
    def check(self, source: SourceNetwork) -> None:
        """Raises ValueError, before any work, if the network cannot be put into this format."""

    @abstractmethod
    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        """Write the file, or into the empty folder; yields a line for each thing worth knowing."""

    @abstractmethod
    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        """Compare what was written with its source, on random input and on ``sentences``; yields lines on it.

        Raises:
            VerificationError: it computes something else.
        """
