"""Run ``python -m fairseq_ats.cost``, which is ``fairseq-ats cost``."""

from fairseq_ats.cli.cost import main

if __name__ == "__main__":
    main()
