"""Archives of public data: downloading with resume, checking, reading their members."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fairseq_ats.stages import made

# What reading a damaged archive raises.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError)
# curl's "HTTP status 400 or more" (416: nothing is left to send), "no byte ranges" and "cannot resume".
CANNOT_RESUME = (22, 33, 36)


@dataclass(frozen=True)
class Archive:
    """A gzip file, or a tar of that kind, and what is known of it.

    Args:
        address: where it is downloaded from; the last part is its file name.
        size: bytes; None: not known.
        checksum: ``sha256:HEX`` or ``md5:HEX``; None: not known. Then the file must be a whole gzip file, and its
            sha256 is recorded when it has served, and must be the same from then on.
    """

    address: str
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        return posixpath.basename(self.address)


class ArchiveFolder:
    """The archives of one data set: in a folder that a person filled, or downloaded.

    Args:
        given: folder that holds them all; nothing is downloaded or written there. None: they are downloaded.
        work: gets ``download/`` and ``archives.sha256``, the record of the checksums that were not known.
        say: told what is downloaded.
    """

    def __init__(self, given: Path | None, work: Path, say: Callable[[str], None]) -> None:
        self._given = given
        self._say = say
        self._download = work / "download"
        self._record = work / "archives.sha256"

    def path(self, archive: Archive) -> Path:
        return (self._given or self._download) / archive.name

    def get(self, archive: Archive) -> Path:
        """Path of the archive, downloaded if need be, and checked.

        Raises:
            ValueError: it is missing, cannot be downloaded, or is not what it should be.
        """
        path = self.path(archive)
        if path.is_file():
            self._check(archive, path)
        elif self._given is not None:
            raise ValueError(f"{path} is missing; it is {archive.address}")
        else:
            part = path.with_name(path.name + ".part")
            self._say(f"downloading {archive.address}")
            with made(path.parent):
                download(archive, part)
                try:
                    self._check(archive, part)
                except ValueError as error:
                    part.unlink()
                    raise ValueError(f"{error}; it is removed, call again to download it anew") from error
                part.rename(path)
        return path

    def remember(self, archives: Iterable[Archive]) -> None:
        """Record the checksums of archives that were used, and whose checksum was not known."""
        used = {archive.name: self.identity(archive) for archive in archives if archive.checksum is None}
        recorded = self._recorded() | used
        if recorded == self._recorded():
            return
        new = self._record.with_name(self._record.name + ".part")
        # The format of sha256sum, whose --check reads it.
        lines = [f"{value.removeprefix('sha256:')}  {name}\n" for name, value in sorted(recorded.items())]
        new.write_text("".join(lines), "utf-8")
        new.rename(self._record)

    def identity(self, archive: Archive) -> str | None:
        """What a stage that was made from the archive depends on; None if that is not known yet.

        A file that is there and whose checksum is not known is read for it.
        """
        if archive.checksum is not None:
            return archive.checksum
        path = self.path(archive)
        return "sha256:" + hash_of(path, "sha256") if path.is_file() else self._recorded().get(archive.name)

    def _check(self, archive: Archive, path: Path) -> None:
        size = path.stat().st_size
        if archive.size is not None and size != archive.size:
            raise ValueError(
                f"{path} is truncated or another file: it has {size} bytes, {archive.address} has {archive.size}"
            )
        if archive.checksum is not None:
            algorithm, expected = archive.checksum.split(":")
            found = hash_of(path, algorithm)
            if found != expected:
                raise ValueError(f"{path} is damaged or another file: its {algorithm} is {found}, not {expected}")
            return
        check_gzip(path)
        found, recorded = "sha256:" + hash_of(path, "sha256"), self._recorded()
        if recorded.get(archive.name, found) != found:
            raise ValueError(
                f"{path} is not the file of that name that was used before: it has {found}, and {self._record} says "
                f"{recorded[archive.name]}; remove that line to use this one"
            )

    def _recorded(self) -> dict[str, str]:
        if not self._record.is_file():
            return {}
        pairs = (line.split(maxsplit=1) for line in self._record.read_text("utf-8").splitlines())
        return {name: f"sha256:{value}" for value, name in pairs}


def hash_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def check_gzip(path: Path) -> None:
    """Raise ValueError unless the file is a whole gzip file: it is read to its end, where its checksum is."""
    try:
        with gzip.open(path) as file:
            while file.read(1 << 20):
                pass
    except DAMAGED as error:
        raise ValueError(f"{path} is truncated or no gzip file") from error


def download(archive: Archive, part: Path) -> None:
    """Download to ``part``, going on where an earlier call was interrupted.

    Raises:
        ValueError: curl is not there, or could not download. What it got stays, for the next call.
    """
    if shutil.which("curl") is None:
        raise ValueError("needs curl to download; install it, or give the folder of the downloaded files")
    if part.is_file() and archive.size is not None:
        if part.stat().st_size == archive.size:
            return
        if part.stat().st_size > archive.size:
            part.unlink()
    status, message = _curl(archive.address, part)
    if status in CANNOT_RESUME and part.is_file():
        part.unlink()
        status, message = _curl(archive.address, part)
    if status != 0:
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
        raise ValueError(
            f"could not download {archive.address} ({message or f'curl ended with status {status}'}); call again to go "
            "on, or download it by hand and give its folder"
        )


def _curl(address: str, part: Path) -> tuple[int, str]:
    command = ["curl", "--fail", "--location", "--retry", "3", "--connect-timeout", "30"]
    command += ["--speed-limit", "1", "--speed-time", "60"]  # a connection that went silent
    command += ["--continue-at", "-", "--output", str(part), "--write-out", "%{errormsg}"]
    command += ["--progress-bar" if sys.stderr.isatty() else "--silent", address]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout.strip()


def member_lines(path: Path, member: str) -> Iterator[str]:
    """Lines of a text file in a tar archive, which is read as a stream: nothing is unpacked to disk.

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
