"""Documents say what is there: links, commands, options, tests, rooms."""

from __future__ import annotations

import ast
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from fairseq import options

import fairseq_ats
from fairseq_ats.cli.main import COMMANDS
from fairseq_ats.cli.yaml_file import read_yaml
from scripts.docs.options import page
from tests.support.markdown import cells_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]

# Words of the shell, and commands that come with Python or the system.
SHELL = {"for", "do", "done", "source", "echo", "pip", "podman", "sbatch"}
OURS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PARSERS = {
    "fairseq-train": options.get_training_parser,
    "fairseq-generate": options.get_generation_parser,
    "fairseq-interactive": options.get_interactive_generation_parser,
    "fairseq-validate": options.get_validation_parser,
}
# Commands whose other options are fairseq's.
TAKES_FAIRSEQ_OPTIONS = {"train", "launch", "cost"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the simple commands of a page's shell blocks, without redirections."""
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in [*lexer, ";"]:
                if not set(word) <= set("|&;"):
                    command.append(word)
                    continue
                while command and ("=" in command[0] or command[0] in ("do", "done")):
                    del command[0]
                if command:
                    yield command
                command = []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for path in ROOT.glob("docs/*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_commands_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fairseqs = {entry.name for entry in distribution("fairseq-fixed").entry_points}
    for command in commands(path):
        name, *arguments = command
        if name.startswith("scripts/"):
            assert os.access(ROOT / name, os.X_OK), name
        elif name == "python":
            assert arguments[0] == "-c" or find_spec(arguments[1]) is not None, command
        elif name == "fairseq-ats":
            assert_sub_command(arguments, capsys)
        elif not name.startswith(".venv/bin/"):
            assert name in SHELL | set(OURS) | fairseqs, name


def assert_sub_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = arguments
    assert name in COMMANDS
    if name in TAKES_FAIRSEQ_OPTIONS:
        return
    with pytest.raises(SystemExit):
        import_module(f"fairseq_ats.cli.{name}").main(["--help"])
    known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
    for argument in arguments:
        assert not argument.startswith("--") or argument in known, argument


@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_fairseq_takes_the_options(path: Path) -> None:
    for command in commands(path):
        if command[0] in PARSERS and "..." not in command:
            arguments = command[1:]
            if ">" in arguments:
                arguments = arguments[: arguments.index(">")]
            options.parse_args_and_arch(PARSERS[command[0]](), input_args=arguments)


def test_the_readme_has_commands() -> None:
    """Guard the tests above: they would pass without a command."""
    names = [command[0] for command in commands(ROOT / "README.md")]
    assert {"fairseq-train", "fairseq-generate", "fairseq-ats", "scripts/demo.sh"} <= set(names)


def test_the_citation_is_of_this_version() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == fairseq_ats.__version__
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text().replace("\n", " ")


def test_options_page_is_made_from_the_options() -> None:
    made = "python -m scripts.docs.options > docs/options.md"
    assert (ROOT / "docs/options.md").read_text() == page() + "\n", made


@pytest.mark.parametrize("path", [*GUIDES, ROOT / "SECURITY.md"], ids=name_of)
def test_named_tests_exist(path: Path) -> None:
    tests = "\n".join(file.read_text() for file in ROOT.glob("tests/**/test_*.py"))
    for name in re.findall(r"`(test_\w+)`", path.read_text()):
        assert f"def {name}(" in tests, name
    for file in re.findall(r"`((?:tests|fairseq_ats)/[\w/]+\.py)`", path.read_text()):
        assert (ROOT / file).is_file(), file


def test_rooms_import_from_rooms_above_them() -> None:
    rows = cells_of((ROOT / "CONTRIBUTING.md").read_text().partition("| `fairseq_ats/` |")[2].partition("\n\n")[0])
    rooms = [row[0].strip("`/").removesuffix(".py") for row in rows if row[0].startswith("`")]
    package = ROOT / "fairseq_ats"
    there = {path.stem for path in package.iterdir() if path.name[0] not in "._"}
    assert there - set(rooms) == {"translate"}, "an alias of inference/translator.py"
    for path in package.glob("**/*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if path.name == "__main__.py" or room not in rooms:
            continue
        for imported in imported_rooms(path):
            assert rooms.index(imported) <= rooms.index(room), f"{name_of(path)} imports {imported}"


def imported_rooms(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fairseq_ats":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from (name for name in names if not name.startswith("__"))
