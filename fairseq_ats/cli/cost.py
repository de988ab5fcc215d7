"""Count what each network and each update costs: no clock is involved.

    fairseq-ats cost RUN/checkpoint_best.pt
    fairseq-ats cost --arch transformer_iwslt_de_en --share-decoder-input-output-embed --small-ratio 0.03125
    fairseq-ats cost --arch resnet18 --small-ratio 0.5
    fairseq-ats cost --arch transformer_iwslt_de_en --core-parameters 20M

The last lists the cores of a Transformer that fit a budget, with the options that make them. All but the first take
fairseq's options; a ResNet is counted on images of CIFAR-10's shape. FLOPs are PyTorch's own count of the matrix
products of one forward and backward pass; a multiplication and an addition are two. Activation bytes are what autograd
keeps between the passes, in float32 and on a CPU. Layers that LayerDrop leaves out of some updates are counted in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from fairseq_ats import plugin  # noqa: F401  registers the task
from fairseq_ats.architectures.resnet import RESNETS
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME, STOCK_TASK_NAME, TASK_NAME
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.cost.budget import Core, cores_within
from fairseq_ats.cost.cost import (
    Cost,
    freeze_,
    model_of_checkpoint,
    network_cost,
    scheme_flops,
    scheme_of_parts_flops,
    scheme_text,
)
from fairseq_ats.cost.images import CIFAR10, image_table
from fairseq_ats.cost.synthetic import build, numbered_dictionary
from fairseq_ats.options.values import Options
from fairseq_ats.partition.partition import Partition
from fairseq_ats.schemes.partial_sgd import SchemeOfParts
from fairseq_ats.tasks.image_classification_with_partitioned_model import ImageClassificationWithPartitionedModelTask


def main(arguments: Sequence[str] | None = None, prog: str = "python -m fairseq_ats.cost") -> None:
    """Run the command."""
    parser = _parser(prog)
    # fairseq parses the rest: a value there must not be taken for a file here.
    args, rest = parser.parse_known_args(arguments)
    silence_libraries()
    torch.set_num_threads(1)  # two on a busy machine wait for each other
    checkpoint = rest[0] if len(rest) == 1 and not rest[0].startswith("-") else None
    if checkpoint is None and not {"--arch", "-a"} & set(rest):
        parser.error("give a checkpoint, or --arch with fairseq's options")
    if args.tokens < args.length:
        parser.error(f"--tokens is {args.tokens} and --length is {args.length}; allowed: --length or more")
    has_budget = args.core_parameters is not None or args.core_flops is not None
    if has_budget and checkpoint is not None:
        parser.error("--core-parameters and --core-flops are for a model that is to be trained; give its --arch")
    if args.core_flops is not None and not 0 < args.core_flops < 1:
        parser.error(f"--core-flops is {args.core_flops}; allowed: 0 < F < 1")
    is_of_images = not {*RESNETS}.isdisjoint(rest)
    if has_budget and is_of_images:
        parser.error("--core-parameters and --core-flops are for a Transformer; --arch is a ResNet")
    with parser.errors_in_a_sentence():
        if has_budget:
            stock = build(["--task", STOCK_TASK_NAME, *rest], numbered_dictionary(args.vocabulary))
            found = cores_within(stock.model, stock.task, args.length, args.core_parameters, args.core_flops)
            print(_budget_table(*found))
            return
        if checkpoint is None:
            task_name = IMAGE_TASK_NAME if is_of_images else TASK_NAME
            built = build(
                ["--task", task_name, *rest], CIFAR10 if is_of_images else numbered_dictionary(args.vocabulary)
            )
            task, model, name = built.task, built.model, built.cfg.model._name
        else:
            task, model = model_of_checkpoint(checkpoint)
            name = checkpoint
        scheme = Options(task.cfg).scheme.scheme_of(task.partition.max_level)
        freeze_(task, model)
        if isinstance(task, ImageClassificationWithPartitionedModelTask):
            print(f"{name}: {task.partition}; images of {' × '.join(map(str, task.data.shape))}\n")
            print(image_table(task, model, scheme))
            return
        sentences = args.tokens // args.length
        costs = {level: network_cost(model, task, sentences, args.length, level) for level in task.partition.levels}
        updates = scheme_flops(costs, *scheme.patterns)
        if isinstance(scheme, SchemeOfParts):
            of_update = partial(network_cost, model, task, sentences, args.length, scheme.max_level)
            updates[scheme_text(task)] = scheme_of_parts_flops(scheme, task.model_parts(model), of_update)
    tokens = sentences * args.length
    print(f"{name}: {task.partition}; {tokens:,} tokens in sentences of {args.length}\n")
    print(_table(costs, tokens, task.partition, updates))


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog,
        __doc__,
        usage="%(prog)s (CHECKPOINT | --arch ARCH [fairseq options]) [--tokens N] [--length N] [--vocabulary N] "
        "[--core-parameters N] [--core-flops F]",
        epilog="Other options are fairseq's: --arch and the options of the architecture, "
        "--partitioned-linear-module-name, --small-ratio, --max-level, --alternate-pattern, --scheme, --scheme-args.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tokens", type=positive, default=4096, metavar="N", help="target tokens of the mini-batch (default: 4096)"
    )
    parser.add_argument(
        "--length", type=positive, default=25, metavar="N", help="tokens of each sentence, on both sides (default: 25)"
    )
    parser.add_argument(
        "--vocabulary",
        type=positive,
        default=10000,
        metavar="N",
        help="with --arch: entries of the dictionary (default: 10000)",
    )
    parser.add_argument(
        "--core-parameters",
        type=_count,
        metavar="N",
        help="list the cores with at most N parameters, as in 8M or 500k",
    )
    parser.add_argument(
        "--core-flops",
        type=float,
        metavar="F",
        help="list the cores whose update takes at most F times the FLOPs of the super-network's, 0 < F < 1",
    )
    return parser


def _count(text: str) -> int:
    return positive(text.upper().replace("K", "000").replace("M", "000000"))


def _budget_table(whole: Core, cores: Sequence[Core]) -> str:
    """Return Markdown: one core in each row."""
    lines = [
        "| core | parameters | decoding step | an update | an average update of ATS | options |",
        "|---|---:|---:|---:|---:|---|",
        f"| (the super-network) | {whole.parameters:,} | {whole.step / 1e6:.1f} MFLOPs | 1 | 1 | |",
    ]
    for core in cores:
        lines.append(
            f"| {core.encoder_layers}+{core.decoder_layers} layers, {core.share} | {core.parameters:,} "
            f"| {core.step / whole.step:.2f} | {core.flops:.2f} | {core.ats_flops:.2f} | `{core.options}` |"
        )
    return "\n".join(lines)


def _table(costs: Mapping[int, Cost], tokens: int, partition: Partition, updates: Mapping[str, float]) -> str:
    """Return Markdown: the networks, and the updates of each scheme."""
    lines = [
        "| network | parameters | in embeddings | forward MFLOPs/token | backward | activations kB/token "
        "| weights, gradients, Adam MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for level, cost in sorted(costs.items(), reverse=True):
        lines.append(
            f"| {partition.network_name(level)} | {cost.parameters:,} | {cost.embedding_parameters:,} "
            f"| {cost.forward_flops / tokens / 1e6:.1f} | {cost.backward_flops / tokens / 1e6:.1f} "
            f"| {cost.activation_bytes / tokens / 1e3:.0f} | {cost.state_bytes / 1e6:.0f} |"
        )
    whole = next(iter(updates.values()))
    lines += ["", "| update of | GFLOPs | relative |", "|---|---:|---:|"]
    lines += [f"| {name} | {flops / 1e9:.1f} | {flops / whole:.2f} |" for name, flops in updates.items()]
    return "\n".join(lines)
