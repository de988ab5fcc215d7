#!/usr/bin/env bash
# From nothing to a table of two translation models: environment, corpus, training of both networks at once, decoding.
# Everything is made in runs/demo; a second call trains again from the start.
#
#   scripts/demo.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
scripts/setup_env.sh
export PATH=$root/.venv/bin:$PATH

out=runs/demo
started=$SECONDS
say() { printf '\n== %s\n' "$*"; }

say "1/4 corpus: English-German sentences from a small grammar"
python -m scripts.demo.corpus --output "$out/raw"
head -n 2 "$out/raw/train.en" "$out/raw/train.de"

say "2/4 sentencepiece and binarisation"
fairseq-ats binarise "$out/raw" "$out/data" --source en --target de --vocabulary 1000

say "3/4 alternating training: even updates train the super-network, odd updates the core"
rm -rf "$out/ats"
scripts/demo/with_progress.sh fairseq-ats train configs/demo.yaml "$out/data" --save-dir "$out/ats" "$@"

say "4/4 decoding the test set with both networks"
fairseq-ats evaluate "$out/data" "$out/ats" --beam 5 | tee "$out/table.md"
printf '\nDone in %d s (without set-up). Log: %s, table: %s\n' $((SECONDS - started)) "$out/ats/train.log" "$out/table.md"
