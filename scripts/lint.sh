#!/usr/bin/env bash
# Check format, lint, types and shell scripts: what `pre-commit` and scripts/test.sh run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
export PATH=$root/.venv/bin:$PATH

run() {
  printf '+ %s\n' "$*"
  "$@"
}

run ruff format --check
run ruff check
run mypy
run shellcheck --severity=warning scripts/*.sh .ci/run
