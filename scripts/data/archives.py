"""Archives of public data: download them, check them, read their members."""

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

# What reading a damaged archive raises.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError)


@dataclass(frozen=True)
class Archive:
    """A gzip file, or a tar of that kind, and what is known of it.

    Args:
        address: where it is downloaded from; the last part is its file name.
        checksum: ``sha256:HEX`` or ``md5:HEX``; None: not known.
    """

    address: str
    checksum: str | None = None

    @property
    def name(self) -> str:
        return posixpath.basename(self.address)


@dataclass(frozen=True)
class ArchiveFolder:
    """The archives of one data set, in a folder that a person filled or in a folder for downloads.

    Args:
        given: folder that holds them all; nothing is downloaded or written there. None: they are downloaded.
        download: folder for downloads.
        say: takes what a person may want to know on the way.
    """

    given: Path | None
    download: Path
    say: Callable[[str], None]

    def path(self, archive: Archive) -> Path:
        """Return where the archive is, or will be."""
        return (self.given or self.download) / archive.name

    def get(self, archive: Archive) -> Path:
        """Return the path of the archive; download it if need be.

        An interrupted download begins again.

        Raises:
            ValueError: it is missing, cannot be downloaded, or has another checksum.
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
        """Return the checksum on which text from the archive depends; of a file that is gone, the recorded one."""
        if archive.checksum is not None:
            return archive.checksum
        path = self.path(archive)
        return f"sha256:{pooch.file_hash(path)}" if path.is_file() else recorded


def _download(archive: Archive, path: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    # A server may otherwise compress the file once more on its way.
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), headers={"Accept-Encoding": "identity"})
    try:
        pooch.retrieve(archive.address, archive.checksum, path.name, path.parent, downloader=downloader)
    except (requests.RequestException, ValueError) as error:
        raise ValueError(
            f"could not download {archive.address} ({error}); call again, or download it by hand and give its folder"
        ) from error


def member_lines(path: Path, member: str) -> Iterator[str]:
    """Yield the lines of a text file in a tar archive, which is read as a stream: nothing is unpacked to disk.

    A line ends at a newline and nowhere else, as fairseq counts lines.

    Raises:
        ValueError: there is no such member, the archive is damaged, or the text is not UTF-8.
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
