"""What runs in a process of tests/command_line.py; imports nothing of this project, so that the command does."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def become(command: list[str], stdin: str, output: str, environment: dict[str, str]) -> None:
    """In a new process: become the command; what it prints goes to the file ``output``."""
    for stream, path, flags in ((0, stdin, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
        os.dup2(os.open(path, flags, 0o600), stream)
    os.dup2(1, 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, 1, "utf-8") for n, mode in ((0, "r"), (1, "w"), (2, "w")))
    os.environ.update(environment)
    sys.warnoptions.clear()  # pytest's
    os.chdir(ROOT)
    sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT))]  # pytest's; --user-dir is how it is found
    sys.argv = command
    (entry_point,) = importlib.metadata.entry_points(group="console_scripts", name=command[0])
    try:
        status = entry_point.load()()
    finally:
        sys.stdout.flush()
    sys.exit(status)
