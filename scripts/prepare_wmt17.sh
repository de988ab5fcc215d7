#!/usr/bin/env bash
# WMT'17 English→German (europarl v7, commoncrawl, news-commentary v12: 4.6 M sentence pairs) → binarised data, ready
# for training: 32,000 joint sentencepiece pieces, cased; test set newstest2014.
#
#   scripts/prepare_wmt17.sh [--archives DIR] [--work DIR] [--output WORK/data] [--vocabulary N] [--workers 2]
#
# Without --archives, the four archives (1.75 GB) are downloaded into WORK/download, WORK being runs/wmt17; with it, they
# are taken from DIR.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
"$root/scripts/setup_env.sh"
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$root/.venv/bin/python" -m scripts.data.prepare wmt17 "$@"
