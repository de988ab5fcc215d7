"""Read configuration files: YAML whose keys are fairseq's options, and ``base:``, the file that this one changes.

A file with a base shows its differences only. A value replaces the whole value of the base; ``null`` removes the option
of the base, so that fairseq's default holds. The path of a base is relative to the file that names it, and a base
may have a base.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairseq_ats.cli.yaml_file import read_yaml

BASE = "base"


def read_config(path: Path) -> dict[str, Any]:
    """Return the options of a configuration file; the options of its base come first.

    Raises:
        ValueError: a file is missing, holds no options, or leads back to itself; or it removes an option that its base
            lacks.
    """
    return _read_with_bases(path, ())


def options_of(config: dict[str, Any], path: Path) -> list[str]:
    """Return a configuration as fairseq's command line options.

    Args:
        path: file to name in an error.

    Raises:
        ValueError: a value cannot be an option's.
    """
    options = []
    for key, value in config.items():
        if not isinstance(key, str):
            raise ValueError(f"{path}: YAML reads a key as {key!r}, which is not the name of an option")
        option = "--" + key.replace("_", "-")
        if value is True:
            options.append(option)
        elif isinstance(value, dict):
            options += [option, json.dumps(value)]
        elif value is None or value is False:
            is_what = "empty" if value is None else "false"
            raise ValueError(f"{path}: {key} is {is_what}; leave it out to use fairseq's default")
        else:
            options += [option, str(value)]
    return options


def _read_with_bases(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file that the last of ``readers`` names as its base, which the reader before it names as its base."""
    named = f"{readers[-1]}: {BASE} is {path}" if readers else str(path)
    if not path.is_file():
        raise ValueError(f"{named}, which is not a file" if readers else f"{named} is not a file")
    if any(path.samefile(reader) for reader in readers):
        raise ValueError(f"{named}, which leads back to itself")
    own = read_yaml(path)
    if not isinstance(own, dict):
        raise ValueError(f"{path} must hold fairseq's options as 'name: value' lines")
    if BASE not in own:
        return own
    base = own.pop(BASE)
    if not isinstance(base, str):
        raise ValueError(f"{path}: {BASE} is {base}; allowed: the path of a configuration file")
    options = _read_with_bases(path.parent / base, (*readers, path))
    for key, value in own.items():
        if value is not None:
            options[key] = value
        elif key in options:
            del options[key]
        else:
            raise ValueError(f"{path}: {key} is null, which removes an option of {base}, and {base} does not have it")
    return options
