"""Run ``python -m fairseq_ats.cost``."""

from fairseq_ats.cost.cost import main

if __name__ == "__main__":
    main()
