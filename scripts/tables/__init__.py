"""The paper's BLEU tables: described in ``tables.yaml``, run, scored and drawn by the modules here."""
