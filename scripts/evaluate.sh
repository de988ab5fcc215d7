#!/usr/bin/env bash
# BLEU, parameters and speed of every network of a run, on the test set.
#
#   scripts/evaluate.sh DATA RUN [--beam 5] [--threads N]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
"$root/scripts/setup_env.sh" >&2
exec "$root/.venv/bin/fairseq-ats" evaluate "$@"
