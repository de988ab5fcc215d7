#!/usr/bin/env python3
"""Train an experiment: print the ``fairseq-train`` command of a configuration file, and run it.

    python scripts/train.py configs/demo.yaml DATA --save-dir RUN [fairseq options...]

The file's keys are fairseq's options, one to one, with underscores; ``true`` stands for a flag. Options after the known
ones go to fairseq as they are and override the file's.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from cpu_environment import CPU_ENVIRONMENT
from yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", type=Path, help="configuration file, one of configs/")
    parser.add_argument("data", type=Path, help="folder of binarised data")
    parser.add_argument("--save-dir", type=Path, required=True, help="folder of the run: checkpoints and log")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    args, extra = parser.parse_known_args()
    if not args.config.is_file():
        parser.error(f"argument config: {args.config} is not a file")
    if args.threads < 1:
        parser.error(f"argument --threads: {args.threads} is not allowed; allowed: 1 or more")

    command = ["fairseq-train", str(args.data), "--user-dir", str(ROOT / "fairseq_ats")]
    try:
        command += options_of(read_yaml(args.config), args.config)
    except ValueError as error:
        sys.exit(f"train: {error}")
    command += ["--save-dir", str(args.save_dir), "--log-file", str(args.save_dir / "train.log"), *extra]
    environment = {"OMP_NUM_THREADS": str(args.threads)}
    if "--cpu" in command:
        environment |= CPU_ENVIRONMENT
    print(*(f"{name}={value}" for name, value in environment.items()), shlex.join(command), flush=True)
    if args.dry_run:
        return
    args.save_dir.mkdir(parents=True, exist_ok=True)
    tool = Path(sys.executable).parent / command[0]
    os.execve(tool, command, os.environ | environment)


def options_of(config: Any, path: Path) -> list[str]:
    """Command-line options of a configuration's keys and values.

    Raises:
        ValueError: they are not names and values of options.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold fairseq's options as 'name: value' lines")
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
            raise ValueError(
                f"{path}: {key} is {'empty' if value is None else 'false'}; leave it out to have fairseq's default"
            )
        else:
            options += [option, str(value)]
    return options


if __name__ == "__main__":
    main()
