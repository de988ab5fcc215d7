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
address=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw

raw=
output=$root/runs/multi30k/data
source=en
target=de
options=(--vocabulary 4000)
die() {
  printf 'prepare_multi30k: %s\n' "$*" >&2
  exit 1
}
while (($#)); do
  case $1 in
    --lowercase) options+=("$1") ;;
    --raw | --output | --source | --target | --vocabulary)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --raw) raw=$2 ;;
        --output) output=$2 ;;
        --source) source=$2 ;;
        --target) target=$2 ;;
        --vocabulary) options+=("$1" "$2") ;;
      esac
      shift
      ;;
    *) die "unknown option $1; allowed: --raw --output --source --target --vocabulary --lowercase" ;;
  esac
  shift
done

"$root/scripts/setup_env.sh"
export PATH=$root/.venv/bin:$PATH

names=(train val test_2016_flickr)
splits=(train valid test)
if [[ -z $raw ]]; then
  raw=$root/runs/multi30k/download
  mkdir -p "$raw"
  for name in "${names[@]}"; do
    for language in "$source" "$target"; do
      file=$raw/$name.$language.gz
      [[ -f $file ]] && continue
      echo "prepare_multi30k: downloading $address/$name.$language.gz"
      curl --fail --silent --show-error --location --retry 3 --output "$file.part" "$address/$name.$language.gz" ||
        die "could not download $address/$name.$language.gz; download it by hand and give its folder with --raw"
      mv "$file.part" "$file"
    done
  done
fi
[[ -d $raw ]] || die "--raw is $raw, which is not a folder"

plain=$(mktemp -d)
trap 'rm -rf "$plain"' EXIT
for i in "${!names[@]}"; do
  for language in "$source" "$target"; do
    file=$raw/${names[i]}.$language
    text=$plain/${splits[i]}.$language
    if [[ -f $file.gz ]]; then
      gzip --decompress --stdout "$file.gz" >"$text" 2>/dev/null || die "$file.gz is truncated or no gzip file"
    elif [[ -f $file ]]; then
      cp "$file" "$text"
    else
      die "$file.gz is missing"
    fi
  done
done
python "$root/scripts/binarise.py" "$plain" "$output" --source "$source" --target "$target" "${options[@]}"
