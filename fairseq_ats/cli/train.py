"""Train an experiment: print the ``fairseq-train`` command of a configuration file, and run it.

    fairseq-ats train configs/demo.yaml DATA --save-dir RUN [fairseq options...]

The file's keys are fairseq's options, one to one, with underscores; ``true`` stands for a flag. With ``base: FILE`` the
file changes another one, and ``null`` removes an option of it. Other options than those below go to fairseq as they are
and override the file's.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.config_file import options_of, read_config
from fairseq_ats.cli.environment import CPU_ENVIRONMENT

PLUGIN = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats train") -> None:
    """Run the command."""
    parser = _parser(prog)
    args, extra = parser.parse_known_args(arguments)
    with parser.errors_in_a_sentence():
        config = read_config(args.config)
        if args.device is not None:
            config = _on(args.device, config)
        options = options_of(config, args.config)
        command = ["fairseq-train", str(args.data), "--user-dir", str(PLUGIN), *options]
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


def _on(device: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a training on this device.

    Raises:
        ValueError: it is not there.
    """
    from fairseq_ats.cli.hardware import check_device  # imports torch, which a command without --device does not need

    check_device(device)
    others = {key: value for key, value in config.items() if key != "cpu"}
    return others | {"cpu": True} if device == "cpu" else others


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__, allow_abbrev=False)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="configuration file")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of binarised data")
    parser.add_argument(
        "--save-dir", type=Path, required=True, metavar="RUN", help="folder of the run: checkpoints and log"
    )
    parser.add_argument(
        "--threads", type=positive, default=os.cpu_count(), metavar="N", help="CPU threads (default: all cores)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="train there, whatever the file says of --cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")
    return parser
