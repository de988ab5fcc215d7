#!/usr/bin/env bash
# Build the wheel of this plugin, dist/fairseq_ats-VERSION-py3-none-any.whl, and print its SHA-256.
#
#   scripts/wheel.sh
#
# PYTHON is an interpreter with pip and setuptools 77 or newer, by default that of scripts/setup_env.sh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
python=${PYTHON:-.venv/bin/python}

rm -rf build # setuptools would also pack modules that an earlier build left there
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "${1:-dist}" .
rm -rf build
(cd "${1:-dist}" && { sha256sum fairseq_ats-*.whl 2>/dev/null || shasum -a 256 fairseq_ats-*.whl; })
