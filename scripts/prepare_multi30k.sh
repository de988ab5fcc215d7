#!/usr/bin/env bash
# Multi30k task 1 (29,000 sentence pairs) → binarised data, ready for training.
#
#   scripts/prepare_multi30k.sh [--raw DIR] [--output DIR] [--source en] [--target de] [--vocabulary 4000] [--lowercase]
#
# Without --raw the six raw files are downloaded into runs/multi30k/download (about 1.3 MB). With it they are taken from
# DIR: train, val and test_2016_flickr in each language, as NAME.LANGUAGE.gz or NAME.LANGUAGE.
# The data: https://github.com/multi30k/dataset; captions of Flickr30k images, for non-commercial research.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
"$root/scripts/setup_env.sh"
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$root/.venv/bin/python" -m scripts.data.prepare multi30k "$@"
