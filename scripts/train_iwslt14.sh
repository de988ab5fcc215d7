#!/usr/bin/env bash
# Train one row of the table of IWSLT'14 German→English on a GPU; scripts/prepare_iwslt14.sh makes the data.
#
#   scripts/train_iwslt14.sh ROW [SEED] [fairseq options...]     ROW: a file of configs/iwslt14, without .yaml
exec "$(dirname "${BASH_SOURCE[0]}")/tables/train_row.sh" iwslt14 "$@"
