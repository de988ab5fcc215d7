#!/usr/bin/env bash
# IWSLT'14 German→English (TED talks, 0.17 M sentence pairs) → binarised data, ready for training: lower-cased, 10,000
# joint sentencepiece pieces, fairseq's splits.
#
#   scripts/prepare_iwslt14.sh [--archives DIR] [--work DIR] [--output WORK/data] [--vocabulary N] [--workers 2]
#
# Without --archives, de-en.tgz (20 MB) is downloaded into WORK/download, WORK being runs/iwslt14; with it, it is taken
# from DIR.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
"$root/scripts/setup_env.sh"
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$root/.venv/bin/python" -m scripts.data.prepare iwslt14 "$@"
