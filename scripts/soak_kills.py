#!/usr/bin/env python3
"""Kill a training again and again at random moments, start it again, and compare it with one that was left alone.

    python scripts/soak_kills.py DATA --kills 50 [--workers 2] [--seed 1]

A small model is trained on DATA (binarised) for three epochs of a few updates, with validation and saves. SIGKILL comes
from outside, a random time after the first update began; a training that comes to its end is compared bit for bit, and
another one begins.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.checkpoints import differences, load  # noqa: E402
from tests.command_line import train_command  # noqa: E402

UPDATES = 17
OPTIONS = ["--alternate", "--small-ratio", "0.25", "--max-tokens", "1200", "--num-workers", "0"]
OPTIONS += ["--save-interval-updates", "2", "--keep-interval-updates", "1"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", type=Path, help="folder of binarised data")
    parser.add_argument("--kills", type=int, default=50, help="at least so many (default: 50)")
    parser.add_argument("--workers", type=int, default=1, help="more than 1: by scripts/launch.py, which is killed")
    parser.add_argument("--seed", type=int, default=1, help="of the moments (default: 1)")
    args = parser.parse_args()
    generator = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="soak.") as name:
        folder = Path(name)
        duration = run(args, folder / "alone", kill_after=None)
        kills = trainings = 0
        while kills < args.kills:
            trainings += 1
            killed = folder / f"killed{trainings}"
            while run(args, killed, generator.uniform(0, duration)) is None:
                kills += 1
                print(f"kill {kills}: {sorted(path.name for path in killed.glob('*.pt*'))}", flush=True)
                for path in killed.glob("*.pt"):
                    load(path)  # raises if it is not whole
            compare(folder / "alone", killed)
    print(
        f"{kills} kills in {trainings} training(s) of {UPDATES} updates, each the same bits as one that was left alone"
    )


def run(args: argparse.Namespace, folder: Path, kill_after: float | None) -> float | None:
    """The seconds from the first update to the end of the training; None if it was killed before.

    Args:
        kill_after: seconds from the first update.
    """
    command = train_command(args.data.resolve(), folder, UPDATES, *OPTIONS)
    command[0] = str(Path(sys.executable).parent / command[0])
    if args.workers > 1:
        command = [sys.executable, str(ROOT / "scripts/launch.py"), "--workers", str(args.workers), *command]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output: list[str] = []
    began, timer = None, None
    for line in process.stdout:
        output.append(line)
        if began is None and "Start iterating over samples" in line:
            began = time.monotonic()
            if kill_after is not None:
                timer = threading.Timer(kill_after, process.kill)
                timer.start()
    status = process.wait()
    if timer is not None:
        timer.cancel()
    if status == -signal.SIGKILL:
        return None
    if status != 0:
        sys.exit(f"soak_kills: the training ended with {status}:\n{''.join(output[-30:])}")
    return time.monotonic() - (began or time.monotonic())


def compare(expected: Path, actual: Path) -> None:
    """End with exit status 1 if the trainings have left different files, or files that differ."""
    names = {path.name for path in expected.glob("*.pt*")} | {path.name for path in actual.glob("*.pt*")}
    for name in sorted(names):
        if not (expected / name).exists() or not (actual / name).exists():
            sys.exit(f"soak_kills: {name} is in one training only")
        found = differences(load(actual / name), load(expected / name))
        if found:
            sys.exit(f"soak_kills: {name} differs in {', '.join(found)}")


if __name__ == "__main__":
    main()
