#!/usr/bin/env bash
# Figure 4 of the paper: the quantities of its convergence theory in standard training and in ATS, core of half the width.
#
#   scripts/reproduce_figure4.sh                     on the embedded corpus: 700 updates each
#   scripts/reproduce_figure4.sh --data DIR          on Multi30k, binarised by scripts/prepare_multi30k.sh: 12 epochs each
#
#   --output DIR     where the runs and figure4.png, figure4.jsonl, table.md go (runs/figure4/demo or .../multi30k)
#   --threads N      CPU threads (default: all cores)
#   --dry-run        print the two fairseq-train commands and stop
#   -- OPTIONS...    fairseq options for both trainings, as in: -- --max-epoch 6 --seed 2
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

die() {
  printf 'reproduce_figure4: %s\n' "$*" >&2
  exit 1
}
data=
output=
train=()
extra=()
dry=false
while (($#)); do
  case $1 in
    --data | --output | --threads)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --data) data=$2 ;;
        --output) output=$2 ;;
        --threads) train+=("$1" "$2") ;;
      esac
      shift
      ;;
    --dry-run) dry=true train+=("$1") ;;
    --)
      shift
      extra=("$@")
      break
      ;;
    *) die "unknown option $1; allowed: --data --output --threads --dry-run --" ;;
  esac
  shift
done
corpus=demo
if [[ -n $data ]]; then
  corpus=multi30k
  compgen -G "$data/dict.*.txt" >/dev/null || die "--data is $data, which is not a folder of binarised data"
fi
output=${output:-runs/figure4/$corpus}

scripts/setup_env.sh
export PATH=$root/.venv/bin:$PATH

if [[ -z $data ]]; then
  data=runs/demo/data
  if ! $dry; then
    python -m scripts.demo.corpus --output runs/demo/raw
    fairseq-ats binarise runs/demo/raw "$data" --source en --target de --vocabulary 1000
  fi
fi

for run in standard ats; do
  scheme=()
  [[ $run == standard ]] || scheme=(--alternate)
  $dry || rm -rf "${output:?}/$run"
  fairseq-ats train "configs/figure4_$corpus.yaml" "$data" --save-dir "$output/$run" \
    "${train[@]}" "${scheme[@]}" "${extra[@]}"
done
$dry && exit
python -m scripts.figures.criteria "$output/figure4" "standard=$output/standard/train.log" "ATS=$output/ats/train.log" |
  tee "$output/table.md"
echo "reproduce_figure4: $output/figure4.png"
