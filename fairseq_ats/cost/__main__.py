"""Run ``fairseq-ats cost`` as ``python -m fairseq_ats.cost``."""

from fairseq_ats.cli.cost import main

if __name__ == "__main__":
    main()
