#!/usr/bin/env bash
# Alternating training for many updates on the embedded corpus, with validations and checkpoints: memory, open files and
# processes must stay flat and the log free of warnings. Everything is made in runs/soak; the record is soak.md there.
#
#   scripts/soak.sh            2,000 updates of a tiny model
#   scripts/soak.sh 20000
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
updates=${1:-2000}
if [[ ! $updates =~ ^[1-9][0-9]*$ ]]; then
  echo "soak: the number of updates is $updates; allowed: a whole number from 1 up" >&2
  exit 2
fi
scripts/setup_env.sh
python=$root/.venv/bin/python

out=runs/soak
rm -rf "$out/run"
"$python" -m scripts.demo.corpus --output "$out/raw"
"$python" scripts/binarise.py "$out/raw" "$out/data" --source en --target de --vocabulary 1000
"$python" scripts/soak.py "$out/soak.md" -- "$python" scripts/train.py configs/demo.yaml "$out/data" \
  --save-dir "$out/run" --threads 1 --max-update "$updates" --max-tokens 500 --encoder-layers 1 --decoder-layers 1 \
  --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64 \
  --save-interval-updates 250 --validate-interval-updates 250 --keep-interval-updates 2
