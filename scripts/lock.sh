#!/usr/bin/env bash
# Write requirements/lock/*.txt, the files that scripts/setup_env.sh installs and no others: every package in the version
# of constraints.txt with the SHA-256 of each of its files on PyPI, for every platform and every Python from 3.11 up.
# To be called after a change of constraints.txt or requirements/*.txt.
#
#   scripts/lock.sh
#
# Needs PyPI. uv, which resolves the versions, is installed into a folder of its own and removed again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9

# compile INPUT OUTPUT [uv options...]; only PyPI, so that what a machine has beside it does not get into the lock.
compile() {
  local input=$1 output=$2
  shift 2
  "$scratch/venv/bin/uv" pip compile --quiet --no-config --default-index https://pypi.org/simple --universal \
    --python-version 3.11 --generate-hashes --no-header --no-annotate --constraint constraints.txt "$@" "$input" \
    --output-file "$output"
}

# names FILE: of the packages that are pinned there, as uv writes them
names() {
  sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' "$1" | tr '[:upper:]_' '[:lower:]-' | sort
}

lock() {
  local name=$1
  {
    printf '# Made by scripts/lock.sh from %s and constraints.txt; not to be edited.\n' "$2"
    cat "$scratch/$name.txt"
  } >"requirements/lock/$name.txt"
}

mkdir -p requirements/lock
compile requirements/build.txt "$scratch/build.txt"
compile requirements/tools.txt "$scratch/tools.txt" --no-emit-package=httpx2-jsfetch # only for Python in a browser

# PyPI's torch for Linux needs CUDA's libraries, gigabytes that a CPU build does without. They are the packages that
# constraints.txt, made with a CPU build, does not have. So: what every build needs, and each build with its own.
compile requirements/torch.txt "$scratch/all.txt"
names constraints.txt >"$scratch/known"
names "$scratch/all.txt" >"$scratch/needed"
mapfile -t cuda < <(comm -23 "$scratch/needed" "$scratch/known" | sed 's/^/--no-emit-package=/')
mapfile -t others < <(comm -12 "$scratch/needed" "$scratch/known" | grep -vx torch | sed 's/^/--no-emit-package=/')
compile requirements/torch.txt "$scratch/torch.txt" --no-emit-package=torch "${cuda[@]}"
compile requirements/torch.txt "$scratch/torch_pypi.txt" "${others[@]}"

# The CPU builds are not on PyPI.
version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$scratch/torch_pypi.txt")
printf 'torch==%s+cpu' "$version" >"$scratch/torch_cpu.txt"
while read -r sum wheel; do
  if [[ $sum == '#'* || -z $sum ]]; then
    continue
  fi
  if [[ ${wheel%%+cpu-*} != "torch-$version" ]]; then
    echo "lock: requirements/torch_cpu.sha256 has $wheel, and constraints.txt torch $version; replace its sums" >&2
    exit 1
  fi
  printf ' \\\n    --hash=sha256:%s' "$sum" >>"$scratch/torch_cpu.txt"
done <requirements/torch_cpu.sha256
echo >>"$scratch/torch_cpu.txt"

lock build requirements/build.txt
lock torch requirements/torch.txt
lock torch_cpu requirements/torch_cpu.sha256
lock torch_pypi requirements/torch.txt
lock tools requirements/tools.txt
wc -l requirements/lock/*.txt
