#!/usr/bin/env bash
# Make the environment .venv in the repository's root, with the files of requirements/lock, each held to its SHA-256, and
# this plugin installed in place. A second call returns at once; an interrupted one goes on with the stage that it was
# in; after a change of the files below, .venv is made anew.
#
#   scripts/setup_env.sh
#   PYTHON=python3.12 scripts/setup_env.sh     with that interpreter (only when .venv is made)
#   ANY_BUILD=1 scripts/setup_env.sh           the versions of constraints.txt, from files of any sum: for a build of
#                                              torch, or a platform, that the lock does not know
#
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_CACHE_DIR, PIP_CERT, ...) say where packages come from.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

venv=$root/.venv
log=$venv/setup.log
state=$venv/.setup # key: what .venv is made from; STAGE.started, STAGE.done; complete: written last, holds the key
inputs=(constraints.txt requirements/*.txt requirements/lock/*.txt setup.py scripts/setup_env.sh)

die() {
  printf 'setup_env: %s\n' "$*" >&2
  exit 1
}

# The root belongs to the key: a virtual environment does not survive being moved.
key=$({ printf '%s\n' "$root"; cat "${inputs[@]}"; } | { sha256sum 2>/dev/null || shasum -a 256; })
key=${key%% *}

is_complete() {
  [[ -f $state/complete && $(<"$state/complete") == "$key" ]] && "$venv/bin/python" -c '' 2>/dev/null
}

if is_complete; then
  echo "setup_env: .venv is up to date"
  exit 0
fi

# --- what must be there -----------------------------------------------------------------------------------------------

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

unset PYTHONHOME PYTHONPATH # other people's packages would count as installed
if [[ -n ${PYTHON:-} ]]; then
  is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer ($("$PYTHON" -V 2>&1 || true))"
  python=$PYTHON
else
  python=$(find_python) || die "needs Python 3.11 or newer, and found none; PYTHON=/path/to/python chooses one"
fi
"$python" -c 'import ensurepip' 2>/dev/null || die "$python cannot make virtual environments; install its venv package"
command -v "${CXX:-c++}" >/dev/null || die "fairseq is built from source: needs a C++ compiler (c++, or CXX), and found none"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -f $headers/Python.h ]] || die "fairseq is built from source: needs $headers/Python.h; install $python's development package"

# --- one set-up at a time ---------------------------------------------------------------------------------------------

if [[ -e $venv && ! -d $state ]]; then
  die "$venv was not made by this script; move it away first"
fi
mkdir -p "$state"
if command -v flock >/dev/null; then
  exec 9>"$state/lock"
  if ! flock -n 9; then
    echo "setup_env: waiting for another set-up of the same .venv"
    flock 9
    if is_complete; then
      echo "setup_env: .venv is up to date"
      exit 0
    fi
  fi
fi

if [[ ! -f $state/key || $(<"$state/key") != "$key" ]]; then
  if [[ -f $state/key ]]; then
    echo "setup_env: its files have changed; making .venv anew"
  fi
  find "$venv" -mindepth 1 -maxdepth 1 ! -path "$state" -exec rm -rf {} +
  find "$state" -mindepth 1 ! -name lock -delete
  printf '%s\n' "$key" >"$state/key"
fi

# --- the stages -------------------------------------------------------------------------------------------------------

child=
stop() {
  trap - INT TERM HUP
  [[ -z $child ]] || kill -TERM -- "-$child" 2>/dev/null || true
  printf '\nsetup_env: interrupted; call it again to go on\n' >&2
  exit 130
}
trap stop INT TERM HUP

# In a process group of its own, so that an interruption also ends the compilers under pip.
logged() {
  local status=0
  printf '\n+ %s\n' "$*" >>"$log"
  set -m
  "$@" >>"$log" 2>&1 </dev/null &
  child=$!
  set +m
  wait "$child" || status=$?
  child=
  return "$status"
}

# stage NAME "TEXT" COMMAND...: once; a stage that was interrupted is done over, on top of what it had left.
total=6
number=0
stage() {
  local name=$1 text=$2 begin=$SECONDS
  shift 2
  number=$((number + 1))
  if [[ -f $state/$name.done ]]; then
    return
  fi
  export PIP_IGNORE_INSTALLED=0 # half-installed packages look installed to pip
  if [[ -f $state/$name.started ]]; then
    PIP_IGNORE_INSTALLED=1
  fi
  : >"$state/$name.started"
  printf 'setup_env: [%d/%d] %s ...' "$number" "$total" "$text"
  if ! logged "$@"; then
    printf ' failed\n'
    printf 'setup_env: the last lines of %s:\n' "$log" >&2
    tail -n 30 "$log" >&2
    if tail -n 30 "$log" | grep -qiE 'hash(es)? (from|mismatch|are required)|do not match the hashes|no matching distribution'; then
      printf 'setup_env: a file is not one of requirements/lock. If that is meant (another build of torch, another\n' >&2
      printf 'setup_env: package index), ANY_BUILD=1 scripts/setup_env.sh installs the same versions unchecked\n' >&2
    fi
    exit 1
  fi
  : >"$state/$name.done"
  printf ' %d s\n' "$((SECONDS - begin))"
}

# pip_install STAGE [pip options...]: what requirements/lock has for it, complete, so that pip resolves nothing.
pip_install() {
  local name=$1
  shift
  if [[ ${ANY_BUILD:-0} == 1 ]]; then
    "$venv/bin/python" -m pip install --constraint constraints.txt "$@" -r "requirements/$name.txt"
  else
    "$venv/bin/python" -m pip install --require-hashes --no-deps "$@" -r "requirements/lock/$name.txt"
  fi
}

# The CPU build, where pip's settings offer it, or else PyPI's. By themselves pip's --require-hashes and "torch==VERSION"
# would choose PyPI's, gigabytes, also beside a CPU build in a folder: its sum is known before it is read.
install_torch() {
  pip_install torch || return
  if [[ ${ANY_BUILD:-0} != 1 ]]; then
    pip_install torch_cpu || pip_install torch_pypi
  fi
}

# Kept from the user's settings: where packages come from. Not kept: what would install elsewhere, or something else.
unset PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_REQUIREMENT PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_BINARY \
  PIP_ONLY_BINARY PIP_REQUIRE_HASHES PIP_NO_DEPS PIP_NO_BUILD_ISOLATION PIP_DRY_RUN PIP_PRE PIP_LOG
export PIP_USER=0 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# fairseq's setup.py builds CUDA extensions if this is set, and the archive does not hold their sources.
unset CUDA_HOME

check='
import fairseq, sacrebleu, sentencepiece, torch, yaml
from fairseq import libbase, libbleu, libnat
from fairseq.data import data_utils_fast, token_block_utils_fast
from fairseq_cli import generate, preprocess, train
print("torch", torch.__version__, "fairseq", fairseq.__version__)
'

# pip keeps the wheel that it builds; one that was built against another torch does not import.
install_fairseq() {
  local command=("$venv/bin/python" -m pip install --require-hashes --no-deps --no-build-isolation -r requirements/fairseq.txt)
  "${command[@]}" || return
  "$venv/bin/python" -c "$check" && return
  "${command[@]}" --no-cache-dir --force-reinstall && "$venv/bin/python" -c "$check"
}

stage venv "virtual environment with $("$python" -V) (5 s)" \
  "$python" -m venv "$venv"
stage build "build tools (10 s)" \
  pip_install build
stage torch "torch (30 s, the CUDA build minutes)" \
  install_torch
stage tools "fairseq's other requirements, tests, tools (40 s)" \
  pip_install tools --no-build-isolation
stage fairseq "fairseq, built from source (3 to 5 min, some seconds if pip has it)" \
  install_fairseq
stage plugin "this plugin, in place (5 s)" \
  "$venv/bin/python" -m pip install --no-deps --no-build-isolation --editable .

printf '%s\n' "$key" >"$state/complete.new"
mv "$state/complete.new" "$state/complete"
echo "setup_env: .venv is ready (source .venv/bin/activate)"
