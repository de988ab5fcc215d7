"""Run ``python -m fairseq_ats.cli``, which is ``fairseq-ats`` with this Python."""

from fairseq_ats.cli.main import main

if __name__ == "__main__":
    main()
