"""Prepare the process of a command: environment variables on a CPU, and which log lines appear."""

from __future__ import annotations

import logging
import os
import sys

# MALLOC_*: keep freed memory for the next update; by default it goes back to the system and comes again page by page.
# OMP_WAIT_POLICY: threads that wait at a barrier sleep; spinning ones disturb others on a busy machine.
CPU_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def restart_in_cpu_environment(threads: int) -> None:
    """Start this program again with :data:`CPU_ENVIRONMENT`, unless it has it: the C library reads it only at start.

    Call this before torch is imported, or its import costs time twice.
    """
    wanted = CPU_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)


def silence_libraries(level: int = logging.WARNING) -> None:
    """Log nothing below ``level``.

    fairseq makes the root logger print everything (fairseq/tasks/text_to_speech.py:23), also of unrelated libraries:
    import it before.
    """
    logging.getLogger().setLevel(level)
