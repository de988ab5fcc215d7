"""Decode every network of a run on the test set, and print what it scores, weighs and costs.

    fairseq-ats evaluate DATA RUN [--beam 5] [--tests DIR]

Each network is decoded from its own best checkpoint: ``checkpoint_best_core.pt``, ``checkpoint_best_level2.pt``, ...,
or ``checkpoint_best.pt`` where there is no such file. The networks take turns batch by batch in one process, so that
their speeds can be compared on a busy machine. Writes ``RUN/evaluation.json`` and, for each network,
``RUN/test.NETWORK.txt``; for each further test set of ``--tests``, a folder with raw text in ``NAME.LANGUAGE``, also
``RUN/NAME.NETWORK.txt``. The names of all these files have the training's ``--checkpoint-suffix`` before the last dot.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_ats.checkpoints.names import best_checkpoint
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.environment import restart_in_cpu_environment, silence_libraries

if TYPE_CHECKING:
    from fairseq_ats.inference.evaluation import Network


def main(arguments: Sequence[str] | None = None, prog: str = "fairseq-ats evaluate") -> None:
    """Run the command."""
    parser = _parser(prog)
    args = parser.parse_args(arguments)
    best = best_checkpoint(args.checkpoint_suffix)
    if not (args.run / best).is_file():
        parser.error(f"argument RUN: {args.run} has no {best}; if the training used --checkpoint-suffix, give it here")
    # Restart before the import of torch, which would otherwise be paid twice.
    restart_in_cpu_environment(args.threads)
    import torch

    from fairseq_ats import plugin  # noqa: F401  lets torch read checkpoints
    from fairseq_ats.inference.evaluation import conditions, evaluate, search_of

    silence_libraries()
    torch.set_num_threads(args.threads)
    with parser.errors_in_a_sentence():
        search = search_of(args.beam)
        networks = evaluate(
            args.data, args.run, args.checkpoint_suffix, search, args.batch_size, args.tests, args.comet
        )
        result = conditions(networks, args.beam, args.batch_size, args.threads)
        (args.run / f"evaluation{args.checkpoint_suffix}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(_table(networks))


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(prog, __doc__)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder of binarised data, with the raw references in it"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder with the checkpoints")
    parser.add_argument("--beam", type=positive, default=5, metavar="N", help="beam width (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="sentences in a batch (default: %(default)s)"
    )
    parser.add_argument("--tests", type=Path, metavar="DIR", help="further test sets: raw text in DIR/NAME.LANGUAGE")
    parser.add_argument("--comet", type=Path, metavar="FILE", help="also score with this checkpoint of COMET")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--checkpoint-suffix", default="", metavar="SUFFIX", help="the same as in the training")
    return parser


def _table(networks: Sequence[Network]) -> str:
    """Return the results in Markdown: a table of the networks, and one of the further test sets."""
    lines = [
        "| network | BLEU | chrF | parameters | words/s | speed | updates |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first = networks[0].words_per_second
    for n in networks:
        speed = n.words_per_second / first
        lines.append(
            f"| {n.name} | {n.bleu:.2f} | {n.tests['test']['chrf']:.2f} | {n.parameters:,} "
            f"| {n.words_per_second:,.0f} | {speed:.2f}× | {n.updates:,} |"
        )
    if len(networks[0].tests) > 1 or "comet" in networks[0].tests["test"]:
        lines += ["", "| test set | network | BLEU | chrF | COMET |", "|---|---|---:|---:|---:|"]
        for name in networks[0].tests:
            for n in networks:
                scores = n.tests[name]
                comet = f"{scores['comet']:.4f}" if "comet" in scores else "-"
                lines.append(f"| {name} | {n.name} | {scores['bleu']:.2f} | {scores['chrf']:.2f} | {comet} |")
    scores = networks[0].tests["test"]
    return "\n".join([*lines, "", f"sacreBLEU {scores['signature']}; {scores['chrf_signature']}"])
