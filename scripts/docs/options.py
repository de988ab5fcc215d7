"""Print docs/options.md, made from the same declarations as ``fairseq-train --help``.

python -m scripts.docs.options > docs/options.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import Field, fields

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_ats.architectures.resnet import ResNetConfig
from fairseq_ats.optim.adam_for_partitioned_model import AdamForPartitionedModelConfig
from fairseq_ats.optim.coefficient import CoefficientConfig
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModelConfig
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.tasks.image_classification_with_partitioned_model import PartitionedImageConfig
from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig

_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25"
# Which core for which purpose: purpose, core, options.
PURPOSES = (
    (
        "the core decodes fast: decoder layers are most of what a decoded word costs",
        "2 decoder layers, 1/4 of the width",
        f"--core-decoder-layers 2 {_WIDTH}",
    ),
    ("the same, with all hidden neurons", "2 decoder layers", "--core-decoder-layers 2"),
    ("compare with the paper; a core for CTranslate2", "1/4 of the width", _WIDTH),
    ("compare with the paper; a core that ONNX or fairseq decodes", "rank 1/32", "--small-ratio 0.03125"),
    (
        "few parameters",
        "2 layers on each side, 1/4 of the width of all linear layers",
        f"--core-encoder-layers 2 --core-decoder-layers 2 {_WIDTH} --core-vo width:0.25",
    ),
)

# Heading and text of each table, and the options in it.
SECTIONS = {
    "Networks": (
        "What is split, and which networks there are: [networks and schemes](schemes.md). The kinds of core that the\n"
        "paper does not have: [cores](cores.md). Which core for which purpose:\n\n"
        "| purpose | core | options |\n|---|---|---|\n"
        + "\n".join(f"| {purpose} | {core} | `{options}` |" for purpose, core, options in PURPOSES),
        (
            "partitioned_linear_module_name",
            "small_ratio",
            "max_level",
            "core_encoder_layers",
            "core_decoder_layers",
            "core_layers",
            "core_ffn",
            "core_qk",
            "core_vo",
            "private_norms",
            "extension_arch",
            "extension_args",
        ),
    ),
    "Schemes": (
        "Which networks an update trains: [training schemes](schemes.md#training-schemes).\n"
        "Which parts of one network: [theory and schemes](theory.md).",
        (
            "scheme",
            "alternate",
            "alternate_pattern",
            "super_only_updates",
            "core_only_from",
            "distillation_weight",
            "distillation_temperature",
            "distillation_from",
            "core_dropout",
            "core_data",
            "scheme_args",
            "parts",
            "local_updates",
            "shared_parameters",
            "step_scale",
            "freeze",
            "perturbed_validation",
        ),
    ),
    "Start and precision": (
        "How a new run starts: [warm start](warm_start.md), [a low-rank core](../results/initialisation/README.md).\n"
        "What works on a CPU and on a GPU: [precision](reliability.md#precision).",
        ("init_from", "init_order", "init_super", "autocast"),
    ),
    "Criteria": (
        "[Watch the theory while training](theory.md#watch-the-theory-while-training).",
        ("criteria_interval", "criteria_of", "criteria_dropout", "criteria_by_layer_type"),
    ),
    "Images": (
        "With `--task image_classification_with_partitioned_model` and `--arch resnet10`, `resnet18` or `resnet34`:\n"
        "[images](images.md). `--init-from` and what belongs to it is for translation.",
        ("width", "norm", "dropout", "crop_padding", "flip"),
    ),
    "Optimizer": (
        "`--optimizer adam_for_partitioned_model` is fairseq's Adam with a mask, and its other options are those of\n"
        "fairseq's `adam`. `--optimizer sgd_for_partitioned_model` is torch's SGD with a mask. `--alternate`,\n"
        "`--core-only-from`, `--step-scale` and the schemes with arguments need one of them. fairseq's old\n"
        "optimizers, such as `sgd`, `adafactor` and `adamax`, are refused.",
        ("alternate_lr_coef", "adam_betas", "adam_eps", "momentum", "nesterov", "weight_decay"),
    ),
}

HEAD = """# Options

<!-- Made by python -m scripts.docs.options; change the help texts there, not this page. -->

The options that the tasks `translation_with_partitioned_model` and `image_classification_with_partitioned_model`, their
models and their optimizers add to `fairseq-train`. All other options are fairseq's and mean what they mean there.
`fairseq-hydra-train` takes the same options as `task.NAME`, `model.NAME` and `optimizer.NAME`, with underscores; a file
of `configs/` has them as keys.

`--best-checkpoint-metric`, which is fairseq's, takes any metric that a validation computes for any network:
`--best-checkpoint-metric core_bleu --maximize-best-checkpoint-metric --eval-bleu`.

The partition (layer type, ratios, levels) is saved in the checkpoint. `fairseq-generate`, `fairseq-interactive`,
`fairseq-validate`, `TransformerModel.from_pretrained` and a resumed training take it from there. You may give such an
option again; contradicting the checkpoint is an error. A resumed training also takes its scheme, pattern, phases,
distillation, `--core-dropout` and `--alternate-lr-coef` from the checkpoint. If you give one of these another
value, your value counts and the log warns. A scheme that goes on from a state of its own (`prune`, `extragradient` with
`past`, `mast` with a start or variance reduction) cannot follow another one: begin it with `--finetune-from-model`."""

VALUES = {int: "whole number", float: "number", str: "text", None: "text"}


def main() -> None:
    print(page())


def page() -> str:
    """Return the page in Markdown, without the last newline.

    Raises:
        KeyError: an option has no place in :data:`SECTIONS`, or there is no such option.
    """
    optimizers = (CoefficientConfig, AdamForPartitionedModelConfig, SGDForPartitionedModelConfig)
    tasks = (PartitionedConfig, PartitionedTranslationConfig, PartitionedImageConfig)
    declared = (*tasks, ResNetConfig, *optimizers)
    rows = {name: row for one in declared for name, row in _rows(one)}
    parts = [HEAD]
    for heading, (text, names) in SECTIONS.items():
        table = ["| option | value | meaning | example |", "|---|---|---|---|", *map(rows.pop, names)]
        parts += [f"## {heading}", text, "\n".join(table)]
    if rows:
        raise KeyError(f"no place for {', '.join(rows)}")
    return "\n\n".join(parts)


def _rows(declared: type[FairseqDataclass]) -> Iterator[tuple[str, str]]:
    """Yield name and table row of each option that this class itself declares."""
    parser = argparse.ArgumentParser()
    gen_parser_from_dataclass(parser, declared())
    actions = {action.dest: action for action in parser._actions}
    for option in fields(declared):
        # Views of other groups have no help, and what is no option, the data, has no example.
        if option.name in declared.__annotations__ and "example" in option.metadata:
            yield option.name, _row(option, actions[option.name])


def _row(option: Field, action: argparse.Action) -> str:
    if action.choices is not None:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    else:
        value = "flag" if action.nargs == 0 else VALUES[action.type]
    meaning = re.sub(r"--[a-z][a-z-]*( (alternate|slimmable|core|stock))?", r"`\g<0>`", option.metadata["help"])
    return f"| `{action.option_strings[0]}` | {value} | {meaning} | `{option.metadata['example']}` |"


if __name__ == "__main__":
    main()
