"""Download archives of public data, check them, and read their members."""

from __future__ import annotations

import gzip
import posixpath
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

# The exceptions that reading a damaged archive raises.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError)


@dataclass(frozen=True)
class Archive:
    """A gzip file or a tar.gz archive, with its address and checksum.

    Args:
        address: the URL to download it from. The last part is the file name.
        checksum: ``sha256:HEX`` or ``md5:HEX``; None if it is not known.
    """

    address: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return posixpath.basename(self.address)


@dataclass(frozen=True)
class ArchiveFolder:
    """The archives of one data set, in a folder that the user filled or in a folder for downloads.

    Args:
        given: a folder that holds all archives. Nothing is downloaded or written there. If it is None, the archives
            are downloaded.
        download: the folder for downloads.
        say: a function that shows a progress message to the user.
    """

    given: Path | None
    download: Path
    say: Callable[[str], None]

    def path(self, archive: Archive) -> Path:
        """Return the path where the archive is, or will be."""
        return (self.given or self.download) / archive.name

    def get(self, archive: Archive) -> Path:
        """Return the path of the archive, and download the archive if necessary.

        An interrupted download starts again from the beginning.

        Raises:
            ValueError: the archive is missing, cannot be downloaded, or has a different checksum.
        """
        path = self.path(archive)
        if path.is_file():
            if archive.checksum is not None and not pooch.hashes.hash_matches(path, archive.checksum):
                raise ValueError(
                    f"{path} is damaged or another file: its checksum is not {archive.checksum}; to download it again, "
                    "remove it"
                )
        elif self.given is not None:
            raise ValueError(f"{path} is missing; it is {archive.address}")
        else:
            self.say(f"downloading {archive.address}")
            _download(archive, path)
        return path

    def identity(self, archive: Archive, recorded: str | None = None) -> str | None:
        """Return the checksum that identifies the archive, or ``recorded`` if it is unknown and the file is gone."""
        if archive.checksum is not None:
            return archive.checksum
        path = self.path(archive)
        return f"sha256:{pooch.file_hash(path)}" if path.is_file() else recorded


def _download(archive: Archive, path: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    # Without this header a server may compress the file once more for the transfer.
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), headers={"Accept-Encoding": "identity"})
    try:
        pooch.retrieve(archive.address, archive.checksum, path.name, path.parent, downloader=downloader)
    except (requests.RequestException, ValueError) as error:
        raise ValueError(
            f"could not download {archive.address} ({error}); call again, or download it by hand and give its folder"
        ) from error


def member_lines(path: Path, member: str) -> Iterator[str]:
    """Yield the lines of a text file in a tar.gz archive. Read the archive as a stream, and unpack nothing to disk.

    A line ends only at a newline, as in fairseq.

    Raises:
        ValueError: the archive has no such member or is damaged, or the text is not UTF-8.
    """
    try:
        with tarfile.open(path, "r|gz") as archive:
            for info in archive:
                if posixpath.normpath(info.name) == member and info.isfile():
                    for line in archive.extractfile(info):
                        yield line.decode("utf-8").removesuffix("\n")
                    return
    except DAMAGED as error:
        raise ValueError(f"{path} is truncated or no tar.gz archive") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{member} in {path} is not UTF-8: {error}") from error
    raise ValueError(f"{path} has no {member}: it is another archive than expected")
