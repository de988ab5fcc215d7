#!/usr/bin/env bash
# Make the environment .venv in the repository's root: the files of requirements/lock, each held to its SHA-256, and this
# plugin in place. A second call returns at once; a call after an interruption, or after a change of the files below,
# begins again (pip keeps what it has downloaded and built).
#
#   scripts/setup_env.sh
#   PYTHON=python3.11 scripts/setup_env.sh     use this interpreter; without it python3.12, where it is there
#   FROM_SOURCE=1 scripts/setup_env.sh         build fairseq also where PyPI has it compiled: for Python 3.12 on Linux,
#                                              x86-64, glibc 2.28 or newer
#   TORCH=cuda scripts/setup_env.sh            cuda or cpu; without it cuda where nvidia-smi lists a card, else cpu
#   ANY_BUILD=1 scripts/setup_env.sh           install the versions of constraints.txt unchecked: for a build of torch,
#                                              or a platform, that the lock does not know
#
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CACHE_DIR, PIP_CERT, ...) say where packages come from;
# torch's CPU build also from download.pytorch.org. To change one of the choices above, remove .venv first.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

die() {
  printf 'setup_env: %s\n' "$*" >&2
  exit 1
}

sum() {
  { sha256sum 2>/dev/null || shasum -a 256; } | cut -d ' ' -f 1
}

# The root belongs to the key: a virtual environment does not survive being moved.
key=$({ printf '%s\n' "$root"; cat constraints.txt requirements/*.txt requirements/lock/*.txt scripts/setup_env.sh; } | sum)
plugin_key=$(cat setup.py pyproject.toml | sum) # its console scripts
made=.venv/made-by-setup_env                    # the key, once the environment is complete
plugin_made=.venv/made-plugin

is_made() {
  [[ -f $made && $(<"$made") == "$key" ]] && .venv/bin/python -c '' 2>/dev/null
}

is_complete() {
  is_made && [[ -f $plugin_made && $(<"$plugin_made") == "$plugin_key" ]]
}

if ! is_complete && command -v flock >/dev/null; then
  exec 9>.venv.lock
  flock -n 9 || { echo "setup_env: waiting for another set-up of the same .venv" && flock 9; }
fi
if is_complete; then
  echo "setup_env: .venv is up to date"
  exit 0
fi

# --- what must be there ---

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

unset PYTHONHOME PYTHONPATH # other people's packages would count as installed
if [[ -z ${PYTHON:-} ]]; then
  for PYTHON in python3.12 python3.11 python3.13 python3.14 python3 none; do
    ! is_new_enough "$PYTHON" || break
  done
fi
is_new_enough "$PYTHON" || die "PYTHON is $PYTHON; allowed: a Python 3.11 or newer"
"$PYTHON" -c 'import ensurepip' 2>/dev/null || die "$PYTHON cannot make virtual environments; install its venv package"

if [[ -z ${TORCH:-} ]]; then
  TORCH=cpu
  ! nvidia-smi -L >/dev/null 2>&1 || TORCH=cuda
fi
[[ $TORCH == cpu || $TORCH == cuda ]] || die "TORCH is $TORCH; allowed: cpu, cuda"

# Whether the file of requirements/fairseq_wheel.txt is for this interpreter and machine.
has_wheel() {
  [[ ${FROM_SOURCE:-0} != 1 ]] && "$PYTHON" -c '
import platform, sys
name, version = platform.libc_ver()
fits = (sys.implementation.name, sys.version_info[:2], sys.platform) == ("cpython", (3, 12), "linux")
fits = fits and platform.machine() == "x86_64" and name == "glibc" and [*map(int, version.split("."))] >= [2, 28]
sys.exit(not fits)'
}

if ! has_wheel; then
  source="fairseq is built from source"
  command -v "${CXX:-c++}" >/dev/null || die "$source: needs a C++ compiler (c++, or CXX), and found none"
  headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -f $headers/Python.h ]] || die "$source: needs $headers/Python.h; install $PYTHON's development package"
fi
[[ ! -e .venv || -e $made || -d .venv/.setup ]] || die ".venv was not made by this script; move it away first"

# --- the environment ---

# Kept from the user's settings: where packages come from. Not kept: what would install elsewhere, or something else.
unset PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_REQUIREMENT PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_BINARY \
  PIP_ONLY_BINARY PIP_REQUIRE_HASHES PIP_NO_DEPS PIP_NO_BUILD_ISOLATION PIP_DRY_RUN PIP_PRE PIP_LOG PIP_USER
unset CUDA_HOME # fairseq's setup.py builds CUDA extensions if this is set, and the archive does not hold their sources

log=.venv/setup.log

# step "TEXT" COMMAND...
step() {
  local begin=$SECONDS
  printf 'setup_env: %s ...' "$1"
  shift
  if ! "$@" >>"$log" 2>&1 </dev/null; then
    printf ' failed; the last lines of %s:\n' "$log" >&2
    tail -n 30 "$log" >&2
    die "if a file is not one of requirements/lock, and that is meant: ANY_BUILD=1 scripts/setup_env.sh"
  fi
  printf ' %d s\n' "$((SECONDS - begin))"
}

install() {
  .venv/bin/python -m pip install --no-input --progress-bar off --disable-pip-version-check --root-user-action ignore "$@"
}

# locked NAME [pip options...]: install what requirements/lock has for it, complete, so that pip resolves nothing.
locked() {
  local name=$1
  shift
  if [[ ${ANY_BUILD:-0} == 1 ]]; then
    install --constraint constraints.txt "$@" -r "requirements/$name.txt"
  else
    install --require-hashes --no-deps "$@" -r "requirements/lock/$name.txt"
  fi
}

# The CPU build, where it can be had, or else PyPI's. By themselves pip's --require-hashes and "torch==VERSION" would
# choose PyPI's, gigabytes, also beside a CPU build in a folder: its sum is known before it is read.
install_torch() {
  locked torch || return
  [[ ${ANY_BUILD:-0} != 1 ]] || return 0
  if [[ $TORCH == cpu ]]; then
    locked torch_cpu --extra-index-url https://download.pytorch.org/whl/cpu && return
  fi
  locked torch_pypi
}

check='from fairseq import libbleu, libnat; from fairseq.data import data_utils_fast, token_block_utils_fast'

# Its libbase, which only fairseq's BASE layers need, does not fit every torch.
install_wheel() {
  install --require-hashes --no-deps -r requirements/fairseq_wheel.txt && .venv/bin/python -c "$check"
}

# pip keeps the wheel that it builds; one that was built against another torch does not import.
build_fairseq() {
  local options=(--require-hashes --no-deps --no-build-isolation -r requirements/fairseq.txt)
  local all="$check; from fairseq import libbase"
  install "${options[@]}" && .venv/bin/python -c "$all" && return
  install "${options[@]}" --no-cache-dir --force-reinstall && .venv/bin/python -c "$all"
}

install_plugin() {
  step "this plugin, in place (5 s)" install --no-deps --no-build-isolation --editable .
  echo "$plugin_key" >"$plugin_made"
}

if ! is_made; then
  rm -rf .venv
  "$PYTHON" -m venv .venv || die "$PYTHON cannot make .venv"
  echo "incomplete" >"$made"
  step "build tools (10 s)" locked build
  step "torch, $TORCH (30 s, the CUDA build minutes)" install_torch
  step "fairseq's other requirements, tests, tools (40 s)" locked tools --no-build-isolation
  if has_wheel; then
    step "fairseq, compiled by its publisher (5 s)" install_wheel
  else
    step "fairseq, built from source (3 to 7 min, some seconds if pip has it)" build_fairseq
  fi
  echo "$key" >"$made"
fi
install_plugin
echo "setup_env: .venv is ready (source .venv/bin/activate)"
