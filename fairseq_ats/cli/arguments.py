"""Parse the command lines of all commands in one style."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def positive(text: str) -> int:
    """Return the count that ``text`` says; for ``type=`` of an option."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: a whole number from 1 up")
    return number


class CommandParser(argparse.ArgumentParser):
    """Parse a command line; the help shows its texts as they are written.

    Args:
        prog: the command as the user typed it, for help and errors.
    """

    def __init__(self, prog: str, description: str | None, **settings: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, formatter_class=formatter, **settings)

    @contextmanager
    def errors_in_a_sentence(self, *kinds: type[Exception]) -> Iterator[None]:
        """End the process with one sentence if the work inside fails: status 2, or 130 after an interruption.

        SIGTERM ends the work as an exception does, with status 143, so that no partial output stays behind.

        Args:
            kinds: exceptions that the user can act on, beside ValueError and OSError.
        """
        expected: tuple[type[Exception], ...] = (ValueError, OSError, *kinds)
        before = signal.getsignal(signal.SIGTERM)
        if before is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _stop)
        try:
            yield
        except expected as error:
            self.exit(2, f"{self.prog}: error: {error}\n")
        except KeyboardInterrupt:
            sys.exit(130)
        finally:
            if before is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
