#!/usr/bin/env bash
# Run the checks of scripts/lint.sh and the tests, in the environment of scripts/setup_env.sh. Arguments go to pytest:
# scripts/test.sh -k resume
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

scripts/setup_env.sh
export PATH=$root/.venv/bin:$PATH # the tests call fairseq-train and its like

# Two workers with one thread each: threads that wait for each other are slower than one.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

run() {
  printf '+ %s\n' "$*"
  "$@"
}

scripts/lint.sh
# Neighbours stay with one worker, as far as possible: the trainings that a file shares are then made once.
run pytest -q -n 2 --dist worksteal "$@"
