"""``scripts/train_slurm.sh`` with stand-ins for ``srun`` and ``scontrol``: no cluster is at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fixtures import ROOT

# A training of three updates that keeps its number in RUN, as a checkpoint, and waits after the first.
TRAINING = """#!/bin/sh
echo "$*" >>commands
at=$(cat RUN 2>/dev/null || echo 0)
while [ "$at" -lt 3 ]; do
  at=$((at + 1)); echo "$at" >RUN; echo "update $at"
  [ "$at" -ne 1 ] || { sleep 60 >/dev/null 2>&1 & wait $!; }
done
"""
# As Slurm's, which passes signals on to the tasks.
SRUN = """#!/bin/sh
[ "$1" = --kill-on-bad-exit=1 ] && shift
"$@" & trap 'kill -TERM $!' TERM
wait $!
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("train", TRAINING), ("scontrol", '#!/bin/sh\necho "$*" >>scontrol\n')):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def submit(cluster: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{cluster / 'bin'}:{os.environ['PATH']}"} | variables
    script = ["bash", str(ROOT / "scripts/train_slurm.sh"), *command]
    return subprocess.Popen(
        script, cwd=cluster, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_job_goes_back_into_the_queue_and_goes_on(cluster: Path) -> None:
    job = submit(cluster, "train", "--save-dir", "RUN", SLURM_JOB_ID="40123")
    for _ in range(300):
        if (cluster / "RUN").exists() and (cluster / "RUN").read_text().strip():
            break
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)  # of --signal=B:USR1@120
    said, _ = job.communicate(timeout=60)
    assert job.returncode == 0, said
    assert (cluster / "scontrol").read_text() == "requeue 40123\n"
    assert (cluster / "RUN").read_text() == "1\n"
    job = submit(cluster, "train", "--save-dir", "RUN", SLURM_JOB_ID="40123")
    said, _ = job.communicate(timeout=60)
    assert (job.returncode, said) == (0, "update 2\nupdate 3\n")
    assert set((cluster / "commands").read_text().splitlines()) == {"--save-dir RUN"}
    assert (cluster / "scontrol").read_text() == "requeue 40123\n"


def test_several_nodes_get_a_port(cluster: Path) -> None:
    (cluster / "RUN").write_text("2")
    job = submit(cluster, "train", "DATA", SLURM_JOB_ID="40123", SLURM_NNODES="2")
    assert job.communicate(timeout=60)[0] == "update 3\n"
    assert (cluster / "commands").read_text() == "DATA --distributed-port 20123\n"


def test_a_failure_stays_one(cluster: Path) -> None:
    job = submit(cluster, "false", SLURM_JOB_ID="1")
    job.communicate(timeout=60)
    assert job.returncode == 1
    assert not (cluster / "scontrol").exists()
    job = submit(cluster, "train", SLURM_JOB_ID="")
    assert "usage: sbatch" in job.communicate(timeout=60)[0]
    assert job.returncode == 2
