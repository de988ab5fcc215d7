#!/usr/bin/env python3
"""Train an experiment: print the ``fairseq-train`` command of a configuration file, and run it.

    python scripts/train.py configs/demo.yaml DATA --save-dir RUN [fairseq options...]

The file's keys are fairseq's options, one to one, with underscores; ``true`` stands for a flag. With ``base: FILE`` the
file changes another one, and ``null`` removes an option of it. Options after the known ones go to fairseq as they are
and override the file's.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from cpu_environment import CPU_ENVIRONMENT

from fairseq_ats.cli.config_file import options_of, read_config

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
    if args.threads < 1:
        parser.error(f"argument --threads: {args.threads} is not allowed; allowed: 1 or more")

    try:
        options = options_of(read_config(args.config), args.config)
    except ValueError as error:
        sys.exit(f"train: {error}")
    command = ["fairseq-train", str(args.data), "--user-dir", str(ROOT / "fairseq_ats"), *options]
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


if __name__ == "__main__":
    main()
