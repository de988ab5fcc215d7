"""Values of command line options."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """For ``type=`` of an option that counts something."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: a whole number from 1 up")
    return int(text)
