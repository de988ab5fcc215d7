"""The scripts that prepare public data, offline: archives of the real ones' inner layout, a server on this machine."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import os
import re
import signal
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import sentencepiece
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.data.binarise import Binarisation, evenly_spaced, fits
from fairseq_ats.files import made_once
from scripts.data import prepare as prepare_data
from scripts.data.archives import Archive, ArchiveFolder
from scripts.data.data_sets import IWSLT14, WMT17, DataSet
from tests import STAND_INS
from tests.fixtures import ROOT

TEST_PARTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def tar(path: Path, members: dict[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def talks(sentences: int = 60, test_sentences: int = 2) -> dict[str, str | bytes]:
    """What is in IWSLT'14's archive: talks with a head, and five test sets. Sentence i ends in its number."""
    members: dict[str, str | bytes] = {}
    for language, word in (("de", "Satz Nummer"), ("en", "sentence number")):
        head = f"<url>http://ted.com</url>\n<keywords>a, b</keywords>\n<talkid>1</talkid>\n<title>{word} T</title>\n"
        head += f"<description>TED: {word} D</description>\n"
        body = "".join(f"{word} {i}\n" for i in range(sentences))
        members[f"de-en/train.tags.de-en.{language}"] = head + body
        for part in TEST_PARTS:
            lines = [f'<seg id="{i}"> {part}’s {word} {i} </seg>' for i in range(1, test_sentences + 1)]
            xml = "\n".join(
                ['<?xml version="1.0"?>', '<doc docid="1">', "<title>no sentence</title>", *lines, "</doc>"]
            )
            members[f"de-en/IWSLT14.{part}.de-en.{language}.xml"] = xml
    return members


SMALL_IWSLT = replace(IWSLT14, disk=1, test_lines=10)


Call = tuple[Path, Path, Binarisation, int]


@pytest.fixture
def binarised(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls of the stage that follows the text, which is tested elsewhere and takes seconds."""
    calls: list[Call] = []
    monkeypatch.setattr(prepare_data, "binarise", recorder(calls))
    return calls


def recorder(calls: list[Call]) -> Callable[..., None]:
    def record(raw: Path, output: Path, how: Binarisation, say: object, workers: int) -> None:
        calls.append((raw, output, how, workers))

    return record


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def prepared(data_set: DataSet, *options: object) -> None:
    prepare_data.prepare(data_set, f"prepare_{data_set.name}", [str(option) for option in options])


def test_iwslt14_is_fairseqs_recipe(tmp_path: Path, binarised: list, capsys: pytest.CaptureFixture[str]) -> None:
    members = talks()
    for language in ("de", "en"):
        name = f"de-en/train.tags.de-en.{language}"
        # Left out: nothing on one side; four tokens, a full stop is one, against two; 176 tokens.
        # Kept: three tokens against two; 175 tokens.
        odd = {
            "de": ["", "eins zwei drei.", "w " * 176, "eins zwei.", "w " * 175],
            "en": ["x", "one two", "w " * 176, "one two", "w " * 175],
        }
        members[name] += "".join(line + "\n" for line in odd[language])
    archive = tar(tmp_path / "archives" / "de-en.tgz", members)
    work = tmp_path / "work"
    prepared(SMALL_IWSLT, "--archives", archive.parent, "--work", work)

    for language, word in (("de", "Satz Nummer"), ("en", "sentence number")):
        last = ["eins zwei." if language == "de" else "one two", "w " * 175]
        kept = [f"{word} T", f"TED: {word} D", *(f"{word} {i}" for i in range(60)), *last]
        assert lines(work / "text" / f"valid.{language}") == [kept[22], kept[45]]
        assert lines(work / "text" / f"train.{language}") == kept[:22] + kept[23:45] + kept[46:]
        test = [f"{part}'s {word} {i}" for part in TEST_PARTS for i in (1, 2)]
        assert lines(work / "text" / f"test.{language}") == test
    assert binarised == [(work / "text", work / "data", Binarisation("de", "en", 10000, lowercase=True), 2)]
    said = capsys.readouterr().out
    for what in ("not for commercial use", f"archives from {archive.parent}: de-en.tgz", "MB of disk", "train 62"):
        assert what in said


@given(
    source=st.integers(0, 40), target=st.integers(0, 40), longest=st.integers(1, 40), ratio=st.sampled_from([1.5, 9])
)
def test_limits_are_those_of_moses(source: int, target: int, longest: int, ratio: float) -> None:
    """The conditions of clean-corpus-n.perl, one by one."""
    dropped = source < 1 or target < 1 or source > longest or target > longest
    dropped = dropped or source / target > ratio or target / source > ratio
    assert fits(source, target, longest, ratio) == (not dropped)


@given(count=st.integers(1, 200), sample=st.integers(1, 200))
def test_a_sample_is_evenly_spaced(count: int, sample: int) -> None:
    taken = [int(line) for line in evenly_spaced(map(str, range(count)), count, min(sample, count))]
    assert len(taken) == min(sample, count)
    assert taken[-1] == count - 1
    gaps = {after - before for before, after in itertools.pairwise([-1, *taken])}
    assert max(gaps) - min(gaps) <= 1


WMT_CORPORA = {
    "training-parallel-europarl-v7.tgz": "training/europarl-v7.de-en",
    "training-parallel-commoncrawl.tgz": "commoncrawl.de-en",
    "training-parallel-nc-v12.tgz": "training/news-commentary-v12.de-en",
}
SMALL_WMT = replace(
    WMT17,
    archives={name: replace(archive, checksum=None) for name, archive in WMT17.archives.items()},
    disk=1,
    longest=20,
    sample=150,
    test_lines=3,
)


def news(folder: Path, pairs: int = 70) -> Path:
    """WMT'17's archives: three corpora with other languages beside them, and newstest2014."""
    for archive, member in WMT_CORPORA.items():
        texts = {"cs": "něco\n" * 3}
        for language, word in (("en", "the “house” of"), ("de", "das „Haus“ von")):
            texts[language] = "".join(f"{word} {member[-12:]} {i}\n" for i in range(pairs))
        if "commoncrawl" in archive:  # a control character, a line without a translation, lines that are too long
            texts["en"] += "one\x01two\n\n" + "the house " * 30 + "\n" + "the house\n"
            texts["de"] += "eins\u200bzwei\nnichts\n" + "das Haus " * 30 + "\n" + "das Haus " * 9 + "\n"
        tar(folder / archive, {f"{member}.{language}": text for language, text in texts.items()})
    test = {}
    for language, side, word in (("en", "src", "it’s “news”"), ("de", "ref", "„Neues“")):
        segs = "".join(f'<seg id="{i}">{word} {i}</seg>\n' for i in range(1, 4))
        test[f"test-full/newstest2014-deen-{side}.{language}.sgm"] = f'<srcset setid="x">\n<doc>\n<p>\n{segs}</p>\n'
        test[f"test-full/newstest2014-fren-{side}.{language}.sgm"] = '<seg id="1">no</seg>\n'
    tar(folder / "test-full.tgz", test)
    return folder


@pytest.mark.usefixtures("quick_preprocess")
def test_wmt17_from_archives_to_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives, work = news(tmp_path / "archives"), tmp_path / "work"
    options = ("--archives", archives, "--work", work, "--vocabulary", 100, "--workers", 1)
    prepared(SMALL_WMT, *options)
    text, data = work / "text", work / "data"
    # 70 + 70 + 4 + 70 pairs, of which the 100th and the 200th are held out.
    assert len(lines(text / "train.en")) == 212
    assert [line.split()[-1] for line in lines(text / "valid.de")] == ["29", "55"]
    assert lines(text / "train.en")[0].startswith('the "house" of ')
    assert "one two" in lines(text / "train.en")
    assert "eins zwei" in lines(text / "train.de")
    assert lines(text / "test.en") == [f"it's “news” {i}" for i in (1, 2, 3)]

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(data / "sentencepiece.model"))
    expected = 0
    for pair in zip(lines(text / "train.en"), lines(text / "train.de"), strict=True):
        counts = [len(pieces.encode(line)) for line in pair]
        expected += min(counts) > 0 and max(counts) <= 20 and max(counts) / min(counts) <= 1.5
    assert 0 < expected < 212
    log = (data / "preprocess.log").read_text()
    assert f"train.en: {expected} sents" in log
    assert f"train.de: {expected} sents" in log
    assert lines(data / "test.de") == lines(text / "test.de") == [f"„Neues“ {i}" for i in (1, 2, 3)]
    assert f"train: {expected} of 212 pairs" in capsys.readouterr().out

    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    for archive in archives.iterdir():
        archive.unlink()
    prepared(SMALL_WMT, *options)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
    assert "is up to date" in capsys.readouterr().out


@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="the script makes its own environment, .venv")
def test_the_iwslt14_command(tmp_path: Path) -> None:
    """The real command, whose archive may be any that holds 6,750 test sentences; then on a disk that is too small."""
    tar(tmp_path / "archives" / "de-en.tgz", talks(sentences=300, test_sentences=1350))
    command = [
        str(ROOT / "scripts/prepare_iwslt14.sh"),
        "--archives",
        "archives",
        "--work",
        "work",
        "--vocabulary",
        "60",
    ]
    # No file of more than 64 KiB, which the test set is: the system's limit stands in for a full disk.
    here = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(STAND_INS)}}
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "bash", *command]
    full = subprocess.run(limited, **here, capture_output=True, text=True)
    assert full.returncode == 1
    assert "prepare_iwslt14: " + os.strerror(errno.EFBIG) in re.sub(r"\[Errno \d+\] ", "", full.stderr)
    assert "Traceback" not in full.stderr
    assert files_in(tmp_path / "work") == []

    done = subprocess.run(command, **here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sentence pairs: train 289, valid 13, test 6,750" in done.stdout
    data = tmp_path / "work" / "data"
    assert lines(data / "test.de")[0] == "ted.dev2010's satz nummer 1"
    assert {path.name for path in data.glob("train.*")} == {
        f"train.de-en.{x}" for x in ("de.bin", "de.idx", "en.bin", "en.idx")
    }
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["data", "text"]


FAULTS: dict[str, str] = {
    "missing": "de-en.tgz is missing; it is https://dl.fbaipublicfiles.com/",
    "truncated": "de-en.tgz is truncated or no tar.gz archive",
    "no gzip": "de-en.tgz is truncated or no tar.gz archive",
    "no tar": "de-en.tgz is truncated or no tar.gz archive",
    "another archive": "de-en.tgz has no de-en/train.tags.de-en.de: it is another archive than expected",
    "training lines": "de-en.tgz: de-en/train.tags.de-en.de has 62 lines and de-en/train.tags.de-en.en has 63; they",
    "test lines": "de-en.tgz: de-en/IWSLT14.TED.tst2012.de-en.de.xml has 1 lines and de-en/IWSLT14.TED.tst2012.de",
    "test set": "the archives hold 10 test sentences, and the test set has 6750",
    "encoding": "train.tags.de-en.de in",
    "checksum": "de-en.tgz is damaged or another file: its checksum is not md5:000",
    "disk": f"and {10**9} MB are needed; --work chooses another",
    "no folder": "--archives is",
    "other files": "holds files that this command did not write; give another folder",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_archives_are_refused(tmp_path: Path, binarised: list, fault: str) -> None:
    members, data_set = talks(), SMALL_IWSLT
    folder, work = tmp_path / "archives", tmp_path / "deep" / "work"
    if fault == "training lines":
        members["de-en/train.tags.de-en.en"] += "one more\n"
    elif fault == "test lines":
        name = "de-en/IWSLT14.TED.tst2012.de-en.de.xml"
        members[name] = members[name].replace('<seg id="2">', "<p>")
    elif fault == "test set":
        data_set = replace(SMALL_IWSLT, test_lines=6750)
    elif fault == "encoding":
        members["de-en/train.tags.de-en.de"] = "Büsche\n".encode("latin-1")
    elif fault == "another archive":
        members = {"readme": "hello"}
    elif fault == "checksum":
        archive = replace(IWSLT14.archives["talks"], checksum="md5:" + "0" * 32)
        data_set = replace(SMALL_IWSLT, archives={"talks": archive})
    elif fault == "disk":
        data_set = replace(SMALL_IWSLT, disk=10**9)
    archive = tar(folder / "de-en.tgz", members)
    if fault == "missing":
        archive.unlink()
    elif fault == "truncated":
        archive.write_bytes(archive.read_bytes()[:-200])
    elif fault == "no gzip":
        archive.write_text("<html>404</html>")
    elif fault == "no tar":
        archive.write_bytes(gzip.compress(b"<html>404</html>"))
    elif fault == "no folder":
        folder = folder / "nowhere"
    output = tmp_path / ("archives" if fault == "other files" else "data")
    with pytest.raises(ValueError, match=re.escape(FAULTS[fault])):
        prepared(data_set, "--archives", folder, "--work", work, "--output", output)
    assert not binarised
    assert files_in(tmp_path) == ([] if fault == "missing" else [archive]), "something was left behind"


def test_text_follows_a_changed_archive(tmp_path: Path, binarised: list) -> None:
    archive, work = tar(tmp_path / "archives" / "de-en.tgz", talks()), tmp_path / "work"
    for sentences in (60, 61):
        tar(archive, talks(sentences))
        prepared(SMALL_IWSLT, "--archives", archive.parent, "--work", work)
        assert len(lines(work / "text" / "train.de")) == sentences


@pytest.mark.parametrize("how", ["interrupt", "terminate", "disk"])
def test_an_interrupted_stage_is_done_over(
    tmp_path: Path, binarised: list, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    archive, work = tar(tmp_path / "archives" / "de-en.tgz", talks()), tmp_path / "work"
    options = ["--archives", str(archive.parent), "--work", str(work)]

    def pairs(*arguments: object) -> Iterator:
        for number, pair in enumerate(SMALL_IWSLT.pairs(*arguments)):
            if number == 30:
                if how == "interrupt":
                    raise KeyboardInterrupt
                if how == "terminate":
                    os.kill(os.getpid(), signal.SIGTERM)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield pair

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(prepare_data, "IWSLT14", replace(SMALL_IWSLT, pairs=pairs))
    with pytest.raises(SystemExit) as stopped:
        prepare_data.main(["iwslt14", *options])
    message = "No space left on device; what was half written is removed" if how == "disk" else "interrupted"
    assert message in str(stopped.value)
    assert files_in(work) == []
    monkeypatch.setattr(prepare_data, "IWSLT14", SMALL_IWSLT)
    prepare_data.main(["iwslt14", *options])
    signal.signal(signal.SIGTERM, before)
    assert len(lines(work / "text" / "train.de")) == 60
    assert len(binarised) == 1


def test_a_finished_stage_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage fails: the next call begins with it. What a killed call left is thrown away."""
    archive, work = tar(tmp_path / "archives" / "de-en.tgz", talks()), tmp_path / "work"
    killed = work / ".text.partial-x1y2" / "new"
    killed.mkdir(parents=True)
    (killed / "train.de").write_text("half a li")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prepare_data, "binarise", fail)
    with pytest.raises(OSError, match="No space"):
        prepared(SMALL_IWSLT, "--archives", archive.parent, "--work", work)
    assert sorted(path.name for path in work.iterdir()) == ["text"]

    def not_again(*arguments: object) -> Iterator:
        raise AssertionError("the text was made again")

    calls: list[Call] = []
    monkeypatch.setattr(prepare_data, "binarise", recorder(calls))
    prepared(replace(SMALL_IWSLT, pairs=not_again), "--archives", archive.parent, "--work", work)
    assert len(calls) == 1


def test_two_calls_do_not_write_the_same_folder(tmp_path: Path, binarised: list) -> None:
    archive, work = tar(tmp_path / "archives" / "de-en.tgz", talks()), tmp_path / "work"
    work.mkdir()
    with FileLock(work / ".text.lock"), pytest.raises(ValueError, match="another process is writing"):
        prepared(SMALL_IWSLT, "--archives", archive.parent, "--work", work)
    assert not (work / "text").exists()
    prepared(SMALL_IWSLT, "--archives", archive.parent, "--work", work)
    assert [path.name for path in work.iterdir()] == ["text"]


class Server:
    """Files over HTTP from this machine; it may break off after some bytes.

    Attributes:
        asked: the files of all answered requests.
    """

    def __init__(self, files: dict[str, bytes], breaks_after: int | None = None) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path.lstrip("/"))
                data = files.get(server.asked[-1])
                if data is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:breaks_after])

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def serve(*arguments: object, **options: object) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


DATA = gzip.compress(bytes(range(256)) * 20, mtime=0)  # the same in every process: its sum names a test
SUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.mark.parametrize("checksum", [None, SUM])
def test_an_archive_is_downloaded_once(tmp_path: Path, serve: Callable[..., Server], checksum: str | None) -> None:
    server = serve({"a.gz": DATA})
    archives = ArchiveFolder(None, tmp_path / "download", lambda message: None)
    for _ in range(2):
        path = archives.get(Archive(f"{server.address}/a.gz", checksum))
        assert path.read_bytes() == DATA
    assert [path] == list((tmp_path / "download").iterdir())
    assert server.asked == ["a.gz"]
    assert archives.identity(Archive(f"{server.address}/a.gz", checksum)) == SUM


@pytest.mark.parametrize("fault", ["no network", "not found", "damaged", "breaks off"])
def test_a_download_that_fails_leaves_nothing(tmp_path: Path, serve: Callable[..., Server], fault: str) -> None:
    server = serve({"a.gz": DATA}, breaks_after=100 if fault == "breaks off" else None)
    archive = Archive(f"{server.address}/{'b' if fault == 'not found' else 'a'}.gz")
    if fault == "no network":
        server.close()
    elif fault == "damaged":
        archive = replace(archive, checksum="sha256:" + "0" * 64)
    reason = {"not found": "404", "damaged": "does not match the known hash", "breaks off": "IncompleteRead"}
    with pytest.raises(ValueError, match=f"could not download http.*{reason.get(fault, '')}.*; call again"):
        ArchiveFolder(None, tmp_path / "download", lambda message: None).get(archive)
    assert files_in(tmp_path) == []


def test_multi30k_is_downloaded(
    tmp_path: Path, serve: Callable[..., Server], binarised: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{name}.{language}" for name in ("train", "val", "test_2016_flickr") for language in ("fr", "cs")]
    server = serve({f"{name}.gz": gzip.compress(f"{name}\n".encode()) for name in names})
    monkeypatch.setattr(prepare_data, "MULTI30K_ADDRESS", server.address)
    monkeypatch.setattr(prepare_data, "RUNS", tmp_path)
    text: dict[str, str] = {}

    def read(raw: Path, *arguments: object, names: dict[str, Path]) -> None:
        text.update({path.name: path.read_text() for path in raw.iterdir()})
        assert names["test.fr"] == tmp_path / "multi30k/download/test_2016_flickr.fr.gz"

    monkeypatch.setattr(prepare_data, "binarise", read)
    options = ["--source", "fr", "--target", "cs", "--output", str(tmp_path / "data")]
    for _ in range(2):
        prepare_data.prepare_multi30k("prepare_multi30k", options)
    assert text["valid.cs"] == "val.cs\n"
    assert text["test.fr"] == "test_2016_flickr.fr\n"
    assert len(text) == len(server.asked) == 6, "a file is downloaded once"


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("fault", ["lines", "encoding", "compressed", "blank"])
def test_multi30k_names_the_given_file(tmp_path: Path, fault: str, suffix: str) -> None:
    raw, output = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    for name in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de"):
            text = b"one line\n" * 300
            if (name, language) == ("val", "de"):
                if fault == "lines":
                    text += b"one more\n"
                elif fault == "encoding":
                    text = text[:-9] + "Büsche\n".encode("latin-1")
                elif fault == "compressed":
                    text = gzip.compress(text)
                else:
                    text = b"\n" * 300
            (raw / f"{name}.{language}{suffix}").write_bytes(gzip.compress(text) if suffix else text)
    bad, other = raw / f"val.de{suffix}", raw / f"val.en{suffix}"
    message = {
        "lines": f"{other} has 300 lines and {bad} has 301; they must be equal",
        "encoding": f"{bad} is not UTF-8: line 300: ",
        "compressed": f"{bad} is compressed once more than its name says",
        "blank": f"{bad} is blank: nothing is in any of its 300 lines",
    }[fault]
    with pytest.raises(SystemExit, match=re.escape(f"prepare_multi30k: {message}")):
        prepare_data.main(["multi30k", "--raw", str(raw), "--output", str(output)])
    assert list(tmp_path.iterdir()) == [raw]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    """And not the one beside it that it is made in, whose longer name no file may have."""
    folder = tmp_path / ("x" * 250)
    with pytest.raises(ValueError, match=f"{folder} cannot be written: "), made_once(folder, "stamp", {}):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--archvies", "x"], "prepare_wmt17: unknown option --archvies; allowed: --archives --work --output"),
        (["--archives"], "prepare_wmt17: --archives needs a value"),
        (["--archives", "--work", "x"], "prepare_wmt17: --archives needs a value"),
        (["--workers", "x"], "prepare_wmt17: argument --workers: x is not allowed; allowed: a whole number from 1 up"),
    ],
)
def test_wrong_options(options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        prepare_data.main(["wmt17", *options])


def test_the_known_checksums() -> None:
    """The checksums are those of the sources that scripts/data/data_sets.py names; sacreBLEU is one that is here."""
    from sacrebleu.dataset import DATASETS

    known = DATASETS["wmt14/full"]
    assert known.md5 == [WMT17.archives["test"].checksum.removeprefix("md5:")]
    assert known.data == [WMT17.archives["test"].address]
    members = known.langpairs["en-de"]
    assert members == ["test-full/newstest2014-deen-src.en.sgm", "test-full/newstest2014-deen-ref.de.sgm"]
    for archive in WMT17.archives.values():
        assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.checksum)
