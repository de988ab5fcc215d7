#!/usr/bin/env python3
"""Measure what an update costs under each scheme that trains one network by its parts, in time and in FLOPs.

    python -m scripts.benchmarks.schemes [--tokens 2000] [--rounds 7] [--device cuda]

One small-width model takes turns with itself: in each round every scheme makes one update, on the same batch and with
fairseq's own Trainer. The times of a round are divided by the time of the standard update in that round. The table
shows the median and the quartiles of these ratios, and the ratio of the FLOPs of an average update; the difference is
what is no matrix product: drawing and choosing, Adam with a mask of elements, all that a scheme does not shorten.
On a CPU the time is the CPU time of this process, which does not grow while other programs run.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fairseq.trainer import Trainer
from tabulate import tabulate

from fairseq_ats.cost.cost import network_cost, scheme_of_parts_flops
from fairseq_ats.cost.synthetic import build, numbered_dictionary, random_batch
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.partial_sgd import Scheme, SchemeOfParts
from fairseq_ats.schemes.schedule import SchemeName
from scripts.benchmarks.command_line import conditions, parser_of, small_width, start
from scripts.benchmarks.timing import ratio_column, rotated, seconds_of

# Of a schedule that is at its end.
PRUNED: dict[str, Any] = {"sparsity": 0.5, "end": 1}
SCHEMES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("standard", {}),
    ("dropout", {"keep_prob": 0.5}),
    ("dropout", {"keep_prob": 0.25}),
    ("dropout", {"keep_prob": 0.5, "unit": "weight"}),
    ("prune", {**PRUNED, "feedback": False}),
    ("prune", PRUNED),
    ("meprop", {"kind": "unified", "ratio": 0.1}),
    ("meprop", {"kind": "layer", "ratio": 0.1}),
    ("meprop", {"kind": "exact", "ratio": 0.1}),
    ("extragradient", {"step": 0.01}),
    ("layerwise", {}),
)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="target tokens of the batch")
    parser.set_defaults(rounds=7)
    args = start(parser)
    command = (
        f"{small_width(args)} --arch {args.arch} {args.arch_options} --share-all-embeddings --dropout 0.1 --lr 1e-4"
    )
    command += " --seed 1" + (" --cpu" if args.device == "cpu" else "")
    built = build(command.split(), numbered_dictionary(args.vocabulary))
    sentences = args.tokens // args.length
    batch = random_batch(built.task, sentences, args.length)
    standard, parts = built.task.scheme, built.task.model_parts(built.model)
    counted = built.model, built.task, sentences, args.length, standard.max_level
    schemes: dict[str, Scheme] = {}
    flops: dict[str, float] = {}
    for name, arguments in SCHEMES:
        given = json.dumps(arguments) if arguments else None
        scheme = SchemeOptions(SchemeName(name), arguments=given).scheme_of(standard.max_level)
        scheme.attach(parts, Draws(seed=1))
        label = f"{name} {given or ''}".rstrip()
        schemes[label] = scheme
        if isinstance(scheme, SchemeOfParts):
            flops[label] = scheme_of_parts_flops(scheme, parts, partial(network_cost, *counted))
        else:
            flops[label] = network_cost(*counted).flops
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)

    def update(scheme: Scheme) -> float:
        built.task.scheme = scheme
        built.task.criteria.always_remembers = scheme.extra_passes > 0
        seconds = seconds_of(lambda: trainer.train_step([batch]), args.device)
        return seconds.cpu if args.device == "cpu" else seconds.wall

    times: dict[str, list[float]] = {label: [] for label in schemes}
    for number in range(args.warm_up + args.rounds):
        for label in rotated([*schemes], number):
            duration = update(schemes[label])
            if number >= args.warm_up:
                times[label].append(duration)
        print(f"round {number + 1} of {args.warm_up + args.rounds}", flush=True)
    first = next(iter(schemes))
    rows = [
        [label, ratio_column(times[label], times[first]), f"{flops[label] / flops[first]:.2f}"] for label in schemes
    ]
    print(f"\n{args.arch}, {args.tokens:,} tokens in sentences of {args.length}, dropout 0.1; {conditions(args)}\n")
    header = ["update of", "time (quartiles)", "FLOPs"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True, colalign=["left", "right", "right"]))


if __name__ == "__main__":
    main()
