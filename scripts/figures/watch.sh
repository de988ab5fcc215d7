# shellcheck shell=bash
# Sourced by scripts/reproduce_figure4.sh and its like, which make trainings whose criteria are watched. Each defines
#
#   runs() {
#     run RUN LABEL [fairseq options...]      a training of configs/FIGURE/DATA.yaml
#     draw NAME TABLE MODULE [options]        scripts.figures.MODULE of the runs since the last one: NAME.jsonl, TABLE
#   }
#   watch FIGURE "DATA..." "$@"
#
# A training that has come to its end is not made again. An interrupted one goes on from its checkpoint, or begins again
# if it saves none. One that was made by another command (whatever its threads) is replaced; another folder is left as it
# is.

script=$(basename "$0" .sh)
figure=
corpora=
corpus=
data=
output=
on=() # --threads, --device
extra=()
dry=false
known=()  # names of all runs
chosen=() # those asked for; none: all
drawn=()  # LABEL=LOG of what the next picture shows
listing=true

die() {
  printf '%s: %s\n' "$script" "$*" >&2
  exit 1
}

watch() {
  figure=$1
  corpora=$2
  shift 2
  read_options "$@"
  runs # says the names of all runs
  local name
  for name in "${chosen[@]}"; do
    [[ " ${known[*]} " == *" $name "* ]] || die "$name is not allowed; allowed: $corpora, or runs: ${known[*]}"
  done
  listing=false
  prepare_data
  runs
}

read_options() {
  while (($#)); do
    case $1 in
      --data | --output | --threads | --device)
        (($# > 1)) || die "$1 needs a value"
        case $1 in
          --data) data=$2 ;;
          --output) output=$2 ;;
          --threads | --device) on+=("$1" "$2") ;;
        esac
        shift
        ;;
      --dry-run) dry=true ;;
      --)
        shift
        extra=("$@")
        break
        ;;
      -*) die "unknown option $1; allowed: --data --output --threads --device --dry-run --" ;;
      *) if [[ " $corpora " == *" $1 "* ]]; then corpus=$1; else chosen+=("$1"); fi ;;
    esac
    shift
  done
  corpus=${corpus:-$([[ -z $data ]] && echo demo || echo multi30k)}
  output=${output:-runs/$figure/$corpus}
}

prepare_data() {
  local given=$data
  data=${data:-runs/$corpus/data}
  case $corpus in
    demo | multi30k)
      [[ -z $given && $corpus == demo ]] || compgen -G "$data/dict.*.txt" >/dev/null ||
        die "--data is $data, which is not a folder of binarised data"
      ;;
    *)
      [[ -z $given && $corpus == digits ]] || [[ -f $data/images.json ]] ||
        die "--data is $data, which is not a folder of prepared images; fairseq-ats images makes one"
      ;;
  esac
  scripts/setup_env.sh
  export PATH=$PWD/.venv/bin:$PATH
  if $dry || [[ -n $given ]]; then return 0; fi
  case $corpus in
    demo)
      python -m scripts.demo.corpus --output runs/demo/raw
      fairseq-ats binarise runs/demo/raw "$data" --source en --target de --vocabulary 1000
      ;;
    digits) [[ -d $data ]] || fairseq-ats images digits "$data" ;;
  esac
}

without_threads() {
  sed -E "s/'--threads' '[0-9]+' ?//g"
}

run() {
  local name=$1 label=$2 folder=$output/$1
  shift 2
  known+=("$name")
  if $listing || { ((${#chosen[@]})) && [[ " ${chosen[*]} " != *" $name "* ]]; }; then return 0; fi
  drawn+=("$label=$folder/train.log")
  local command=(fairseq-ats train "configs/$figure/$corpus.yaml" "$data" --save-dir "$folder" "${on[@]}" "$@")
  command+=("${extra[@]}")
  if $dry; then
    "${command[@]}" --dry-run
    return
  fi
  [[ -f $folder/command || -z $(ls -A "$folder" 2>/dev/null) ]] ||
    die "$folder is not a training of this script; move it away, or give another --output"
  if [[ -f $folder/command && $(without_threads <"$folder/command") == $(without_threads <<<"${command[*]@Q}") ]]; then
    if grep -qs 'done training in' "$folder/train.log"; then
      echo "$script: $folder is there"
      return
    fi
  else
    rm -rf "${folder:?}"
    mkdir -p "$folder"
    printf '%s\n' "${command[*]@Q}" >"$folder/command"
  fi
  "${command[@]}"
}

draw() {
  local numbers=$output/$1 table=$output/$2 module=scripts.figures.$3
  shift 3
  if ! $listing && ! $dry && ((${#drawn[@]})); then
    python -m "$module" "$@" "$numbers" "${drawn[@]}" | tee "$table"
    echo "$script: $numbers.jsonl, $table"
  fi
  drawn=()
}
