"""Generate the data of scripts/demo.sh, and show the progress of its training."""
