#!/usr/bin/env bash
# Check this plugin on one card, in about ten minutes, and write one report: versions, the tests that need a card, the
# benchmark of training and decoding, and a short alternating training. Where something fails, the report says what.
#
#   scripts/gpu_check.sh [REPORT.md]      by default gpu_check.md
#
# Uses .venv (TORCH=cuda scripts/setup_env.sh), or else the environment that is active.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
if [[ $# -gt 1 || ${1:-} == -* ]]; then
  echo "usage: scripts/gpu_check.sh [REPORT.md]" >&2
  exit 2
fi
report=$(realpath -m "${1:-gpu_check.md}")
cd "$root"
[[ ! -x .venv/bin/python ]] || PATH=$root/.venv/bin:$PATH
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu_check: torch finds no CUDA device; needs a card, and TORCH=cuda scripts/setup_env.sh" >&2
  exit 1
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
partial=$folder/report.md
failed=0

# section "TITLE" COMMAND...: its output, its time, and whether it failed; the rest is done all the same.
section() {
  local title=$1 begin=$SECONDS status=0
  shift
  echo "gpu_check: $title" >&2
  "$@" >"$folder/out" 2>&1 </dev/null || status=$?
  ((status == 0)) || failed=1
  {
    printf '## %s\n\n' "$title"
    if ((status == 0)); then echo "passed, $((SECONDS - begin)) s"; else echo "**FAILED** (exit status $status), $((SECONDS - begin)) s"; fi
    printf '\n```\n$ %s\n' "$*"
    grep -v '^round ' "$folder/out" | tail -n 120 || true
    printf '```\n\n'
  } >>"$partial"
}

# shellcheck disable=SC2329  # section calls it
versions() {
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
  python - <<'END'
import platform
from importlib.metadata import version

import torch

print("Python", platform.python_version(), platform.platform())
for name in ("torch", "fairseq-fixed", "numpy", "fairseq-ats"):
    try:
        print(name, version(name))
    except ImportError:
        print(name, "in a checkout" if name == "fairseq-ats" else "not found")
print("CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version(), "cards", torch.cuda.device_count())
END
  git rev-parse HEAD 2>/dev/null || true
}

# shellcheck disable=SC2329
demo() {
  python -m scripts.demo.corpus --output "$folder/raw" &&
    python -m fairseq_ats.cli binarise "$folder/raw" "$folder/data" --source en --target de --vocabulary 1000 &&
    sed '/^cpu:/d' configs/demo.yaml >"$folder/demo.yaml" &&
    python -m fairseq_ats.cli train "$folder/demo.yaml" "$folder/data" --save-dir "$folder/run" &&
    python -m fairseq_ats.cli evaluate "$folder/data" "$folder/run" --beam 5
}

# shellcheck disable=SC2016  # Markdown
printf '# Check on a GPU\n\n`scripts/gpu_check.sh`, %s\n\n' "$(date -u +%F)" >"$partial"
section "Versions" versions
section "Tests that need a card" timeout 300 python -m pytest -q -p no:cacheprovider -m gpu tests/gpu
section "Training, float32" timeout 120 python -m scripts.benchmarks.training --device cuda --rounds 3
section "Training, bfloat16" timeout 120 python -m scripts.benchmarks.training --device cuda --rounds 3 --precision bfloat16
section "Decoding, float32" timeout 180 python -m scripts.benchmarks.decoding --device cuda --rounds 3 --batch-sizes 32
section "Alternating training on the embedded corpus" demo
mkdir -p "$(dirname "$report")"
mv "$partial" "$report"
echo "gpu_check: wrote $report$( ((failed == 0)) || echo ', in which something FAILED')"
exit "$failed"
