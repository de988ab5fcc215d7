#!/usr/bin/env bash
# Train one row of the table of WMT'17 English→German on a GPU; scripts/prepare_wmt17.sh makes the data.
#
#   scripts/train_wmt17.sh ROW [SEED] [fairseq options...]     ROW: a file of configs/wmt17, without .yaml
exec "$(dirname "${BASH_SOURCE[0]}")/tables/train_row.sh" wmt17 "$@"
