"""Train, score and draw the BLEU tables that ``tables.yaml`` describes."""
