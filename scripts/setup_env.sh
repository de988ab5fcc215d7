#!/usr/bin/env bash
# Make the environment .venv in the repository's root: the files of requirements/lock, each held to its SHA-256, and this
# plugin in place. A second call returns at once; a call after an interruption, or after a change of the files below,
# begins again (pip keeps what it has downloaded and built).
#
#   scripts/setup_env.sh
#   PYTHON=python3.11 scripts/setup_env.sh     use this interpreter; without it the first of python3.12, python3.11, ...
#                                              for which torch's CPU build is to be had
#   TORCH=cuda scripts/setup_env.sh            torch with CUDA, about 5 GB, or cpu; without it cuda where nvidia-smi
#                                              lists a card, else cpu
#   FROM_SOURCE=1 scripts/setup_env.sh         build fairseq also where PyPI has it compiled: for Python 3.12 on Linux,
#                                              x86-64, glibc 2.28 or newer
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

# --- which Python, with which torch ---

unset PYTHONHOME PYTHONPATH # other people's packages would count as installed

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Whether the file of requirements/fairseq_wheel.txt is for $PYTHON and this machine.
has_wheel() {
  [[ ${FROM_SOURCE:-0} != 1 ]] && "$PYTHON" -c '
import platform, sys
name, version = platform.libc_ver()
fits = (sys.implementation.name, sys.version_info[:2], sys.platform) == ("cpython", (3, 12), "linux")
fits = fits and platform.machine() == "x86_64" and name == "glibc" and [*map(int, version.split("."))] >= [2, 28]
sys.exit(not fits)'
}

# What $PYTHON lacks, or nothing.
lacking() {
  local headers
  if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    echo "it cannot make virtual environments; install its venv package"
  elif ! has_wheel; then
    headers=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if ! command -v "${CXX:-c++}" >/dev/null; then
      echo "fairseq is built from source for it: needs a C++ compiler (c++, or CXX), and found none"
    elif [[ ! -f $headers/Python.h ]]; then
      echo "fairseq is built from source for it: needs $headers/Python.h; install its development package"
    fi
  fi
}

make_venv() {
  rm -rf .venv
  "$PYTHON" -m venv .venv || die "$PYTHON cannot make .venv"
  echo "incomplete" >"$made"
}

# torch alone, without what it requires. Fails soon where the build is not to be had.
install_cpu_torch() {
  locked torch_cpu --retries 1 --timeout 30 --extra-index-url https://download.pytorch.org/whl/cpu >>"$log" 2>&1 </dev/null
}

# Set PYTHON and TORCH, make .venv, and say in one line which and why. PyPI's torch for Linux has CUDA's libraries: it is
# taken where it is asked for, where there is a card, and, with a word, where no Python here can have the CPU build.
choose() {
  local candidates=(python3.12 python3.11 python3.13 python3.14 python3) usable='' not='' why begin
  [[ ${ANY_BUILD:-0} != 1 ]] || candidates=(python3.11 python3.12 python3.13 python3.14 python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for PYTHON in "${candidates[@]}"; do
    is_new_enough "$PYTHON" && [[ $PYTHON != python3 || -z $not ]] || continue
    why=$(lacking)
    if [[ -z $why ]]; then
      make_venv
      usable=${usable:-$PYTHON}
      if [[ ${ANY_BUILD:-0} == 1 ]]; then
        echo "setup_env: takes $PYTHON and the torch of pip's settings${not:+ ($not)}"
        return
      elif [[ $TORCH == cuda ]]; then
        echo "setup_env: takes $PYTHON and torch with CUDA, about 5 GB${not:+ ($not)}"
        return
      fi
      begin=$SECONDS
      printf "setup_env: torch's CPU build for %s (30 s) ..." "$PYTHON"
      if install_cpu_torch; then
        printf ' %d s\n' "$((SECONDS - begin))"
        echo "setup_env: takes $PYTHON and torch's CPU build${not:+ ($not)}"
        return
      fi
      echo " not to be had"
      why="torch's CPU build is not to be had for it"
    fi
    not+="${not:+; }not $PYTHON: $why"
  done
  [[ -n $not ]] || die "PYTHON is ${candidates[*]}; allowed: a Python 3.11 or newer"
  [[ -n $usable ]] || die "$not"
  PYTHON=$usable TORCH=cuda
  make_venv
  echo "setup_env: takes $PYTHON and PyPI's torch, with CUDA about 5 GB: no CPU build ($not)"
}

install_torch() {
  locked torch || return
  [[ ${ANY_BUILD:-0} == 1 || $TORCH == cpu ]] || locked torch_pypi
}

# --- fairseq and the plugin ---

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

if [[ -z ${TORCH:-} ]]; then
  TORCH=cpu
  ! nvidia-smi -L >/dev/null 2>&1 || TORCH=cuda
fi
[[ $TORCH == cpu || $TORCH == cuda ]] || die "TORCH is $TORCH; allowed: cpu, cuda"
[[ ! -e .venv || -e $made || -d .venv/.setup ]] || die ".venv was not made by this script; move it away first"

if ! is_made; then
  choose
  step "build tools (10 s)" locked build
  step "torch's requirements, and its CUDA build where that is taken (5 s; minutes)" install_torch
  step "fairseq's other requirements, tests, tools (40 s)" locked tools --no-build-isolation
  if has_wheel; then
    step "fairseq, compiled by its publisher (5 s)" install_wheel
  else
    step "fairseq, built from source (3 to 5 min, some seconds if pip has it)" build_fairseq
  fi
  echo "$key" >"$made"
fi
install_plugin
echo "setup_env: .venv is ready (source .venv/bin/activate)"
