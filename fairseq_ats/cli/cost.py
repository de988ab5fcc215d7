"""Count what each network and each update costs: no clock is involved.

    fairseq-ats cost RUN/checkpoint_best.pt
    fairseq-ats cost --arch transformer_iwslt_de_en --share-decoder-input-output-embed --small-ratio 0.03125
    fairseq-ats cost --arch resnet18 --small-ratio 0.5

The others take fairseq's options; a ResNet is counted on images of CIFAR-10's shape. FLOPs are PyTorch's own count of
the matrix products of one forward and backward pass; a multiplication and an addition are two. Activation bytes are
what autograd keeps between the passes, in float32 and on a CPU. Layers that LayerDrop leaves out of some updates are
counted in full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fairseq_ats import plugin  # noqa: F401  registers the task
from fairseq_ats.architectures.resnet import RESNETS
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME, TASK_NAME
from fairseq_ats.cli.arguments import CommandParser, positive
from fairseq_ats.cost.cost import Cost, model_of_checkpoint, network_cost, scheme_flops
from fairseq_ats.cost.images import CIFAR10, image_table
from fairseq_ats.cost.synthetic import build, numbered_dictionary
from fairseq_ats.partition.partition import Partition
from fairseq_ats.tasks.image_classification_with_partitioned_model import ImageClassificationWithPartitionedModelTask


def main(arguments: Sequence[str] | None = None, prog: str = "python -m fairseq_ats.cost") -> None:
    """Run the command."""
    parser = _parser(prog)
    # fairseq parses the rest: a value there must not be taken for a file here.
    args, rest = parser.parse_known_args(arguments)
    torch.set_num_threads(1)  # two on a busy machine wait for each other
    checkpoint = rest[0] if len(rest) == 1 and not rest[0].startswith("-") else None
    if checkpoint is None and not {"--arch", "-a"} & set(rest):
        parser.error("give a checkpoint, or --arch with fairseq's options")
    if args.tokens < args.length:
        parser.error(f"--tokens is {args.tokens} and --length is {args.length}; allowed: --length or more")
    with parser.errors_in_a_sentence():
        if checkpoint is None:
            is_of_images = not {*RESNETS}.isdisjoint(rest)
            task_name = IMAGE_TASK_NAME if is_of_images else TASK_NAME
            built = build(
                ["--task", task_name, *rest], CIFAR10 if is_of_images else numbered_dictionary(args.vocabulary)
            )
            task, model, name = built.task, built.model, built.cfg.model._name
        else:
            task, model = model_of_checkpoint(checkpoint)
            name = checkpoint
        if isinstance(task, ImageClassificationWithPartitionedModelTask):
            print(f"{name}: {task.partition}; images of {' × '.join(map(str, task.data.shape))}\n")
            print(image_table(task, model))
            return
        sentences = args.tokens // args.length
        costs = {level: network_cost(model, task, sentences, args.length, level) for level in task.partition.levels}
    tokens = sentences * args.length
    print(f"{name}: {task.partition}; {tokens:,} tokens in sentences of {args.length}\n")
    print(_table(costs, tokens, task.partition, task.scheme.pattern))


def _parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog,
        __doc__,
        usage="%(prog)s (CHECKPOINT | --arch ARCH [fairseq options]) [--tokens N] [--length N] [--vocabulary N]",
        epilog="Other options are fairseq's: --arch and the options of the architecture, "
        "--partitioned-linear-module-name, --small-ratio, --max-level, --alternate-pattern.",
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
    return parser


def _table(costs: Mapping[int, Cost], tokens: int, partition: Partition, pattern: tuple[int, ...]) -> str:
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
    updates = scheme_flops(dict(costs), pattern)
    whole = next(iter(updates.values()))
    lines += ["", "| update of | GFLOPs | relative |", "|---|---:|---:|"]
    lines += [f"| {name} | {flops / 1e9:.1f} | {flops / whole:.2f} |" for name, flops in updates.items()]
    return "\n".join(lines)
