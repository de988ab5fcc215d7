"""Define what every output format does: check the network, write it, and verify the written network."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from fairseq_ats.convert.source_network import SourceNetwork


class OutputFormat(ABC):
    """An output format. Its attributes are the options of the conversion.

    Attributes:
        is_folder: whether the output is a folder and not a file.
        keeps_beam: whether the output keeps a beam and a length penalty that ``tune`` may choose.
        writes_safetensors: whether an output that ends in .safetensors has that format.
        packages: import names of the packages that the format needs.
        extra: the extra of this plugin that has them.
    """

    is_folder: ClassVar[bool] = False
    keeps_beam: ClassVar[bool] = False
    writes_safetensors: ClassVar[bool] = False
    packages: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = "deploy"

    def require_packages(self) -> None:
        """Check that the packages of this format can be imported.

        Raises:
            ValueError: a package is missing; the message says what to install.
        """
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ValueError(
                    f"this format needs the package {package} ({error}); pip install 'fairseq-ats[{self.extra}]' "
                    "installs it"
                ) from error

    @abstractmethod
    def check(self, source: SourceNetwork) -> None:
        """Check, before any work, that the format can hold the network.

        Raises:
            ValueError: the format cannot hold the network.
        """

    @abstractmethod
    def write(self, source: SourceNetwork, path: Path) -> Iterator[str]:
        """Write the network to ``path``, and yield lines for the log.

        Args:
            path: the file to write, or an empty folder to fill.
        """

    @abstractmethod
    def verify(self, source: SourceNetwork, path: Path, sentences: Sequence[Sequence[str]], beam: int) -> Iterator[str]:
        """Compare the written network with its source, on random input and on ``sentences``; yield lines for the log.

        Args:
            sentences: source sentences, cut into pieces.
            beam: beam width for ``sentences``.

        Raises:
            VerificationError: the two networks do not compute the same.
        """
