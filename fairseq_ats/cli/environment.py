"""Environment variables that a process on a CPU should start with."""

from __future__ import annotations

import os
import sys

# MALLOC_*: freed memory is kept for the next update instead of being returned to the system and faulted in again page
# by page. OMP_WAIT_POLICY: threads that wait at a barrier sleep, so that on a busy machine they do not spin.
CPU_ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def restart_in_cpu_environment(threads: int) -> None:
    """Start this program again with the variables set, unless they are: the C library reads them once, at the start."""
    wanted = CPU_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted)
