#!/usr/bin/env bash
# One of the paper's tables, or one of Multi30k: every row, every seed, beside the published numbers.
#
#   scripts/reproduce_table.sh TABLE [--seeds 1,2,3] [--rows ROW,...] [--data DIR] [--dry-run] [...] [-- fairseq options]
#
# TABLE is 1a, 1b, 2a, 2b, one of these with _strong after it, multi30k, multi30k_ with strong, schemes, kinds, pruning,
# ist, pair, converged, equal_cost, warm, recipes or translations after it; or 3 or 3_full, of images. --help says the rest.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
module=scripts.tables.reproduce
[[ ${1:-} == 3* ]] && module=scripts.tables.images
"$root/scripts/setup_env.sh" >&2
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$root/.venv/bin/python" -m "$module" "$@"
