"""Which layers of a stock model are replaced, and which models are refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.models.transformer import TransformerModelBase
from torch import nn

from fairseq_ats import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.architectures.transformer import check_model_options, partition_model_
from fairseq_ats.modules import PartitionedMultiheadAttention
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.partition.partition import Partition

Build = Callable[..., SimpleNamespace]
CLASSES = {"PartitionedRankLinear": PartitionedRankLinear, "PartitionedLinear": PartitionedLinear}


def test_sixty_swaps_in_a_six_plus_six_layer_model(build: Build, module_name: str) -> None:
    sizes = ["--encoder-layers", "6", "--decoder-layers", "6"]
    model = build(*sizes, task="translation", optimizer="adam").model
    untouched = {name: p for name, p in model.named_parameters() if not is_replaced(name)}
    assert partition_model_(model, Partition(module_name, 0.25)) == 60

    modules = dict(model.named_modules())
    replaced = {name for name, module in modules.items() if isinstance(module, PartitionedModule)}
    assert replaced == {name for name in modules if is_replaced(name)}
    assert all(type(modules[name]) is CLASSES[module_name] for name in replaced)
    assert sum(isinstance(m, PartitionedMultiheadAttention) for m in model.modules()) == 18
    for name, module in modules.items():
        if name.endswith(("v_proj", "out_proj", "output_projection")):
            assert type(module) is nn.Linear, name
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in untouched.items())


def is_replaced(name: str) -> bool:
    return name.removesuffix(".weight").removesuffix(".bias").endswith(("fc1", "fc2", "q_proj", "k_proj"))


@pytest.mark.parametrize(
    "arch",
    [
        "transformer_iwslt_de_en",
        "transformer_wmt_en_de",
        "transformer_align",
        "bart_base",
        "transformer_vaswani_wmt_en_de_big",
    ],
)
def test_stock_archs(build: Build, arch: str) -> None:
    small = "--encoder-layers 1 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4".split()
    built = build("--arch", arch, *small)
    assert sum(isinstance(m, PartitionedModule) for m in built.model.modules()) == 4 + 2 * 6


def test_an_arch_that_is_no_transformer_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="--arch is fconv_iwslt_de_en; a partitioned model needs an encoder-decoder"):
        build(arch=["--arch", "fconv_iwslt_de_en"])


# Those of the classes of fairseq whose forward pass is a translation model's.
TRANSLATION_ARCHS = {
    "TransformerModel",
    "TransformerAlignModel",
    "TransformerFromPretrainedXLMModel",
    "ModelParallelTransformerModel",
    "BARTModel",
}


def test_every_arch_is_a_translation_model_or_refused(parse: Callable[..., Any]) -> None:
    """By its interface: models that predict all words at once are Transformers by class, and want the target, too."""
    options = parse().model
    archs = MODEL_REGISTRY | ARCH_MODEL_REGISTRY
    assert issubclass(archs["cmlm_transformer"], TransformerModelBase)
    for arch, model_class in archs.items():
        options._name = options.arch = arch
        if model_class.__name__ in TRANSLATION_ARCHS:
            check_model_options(options)
            continue
        with pytest.raises(ValueError, match=f"--arch is {arch}; a partitioned model needs an encoder-decoder"):
            check_model_options(options)
    assert {model_class.__name__ for model_class in archs.values()} >= TRANSLATION_ARCHS


@pytest.mark.parametrize("shared", ["--share-all-embeddings", "--share-decoder-input-output-embed"])
def test_an_adaptive_softmax_with_shared_embeddings_is_refused(build: Build, shared: str) -> None:
    """fairseq trains it, and can read no checkpoint of it."""
    with pytest.raises(ValueError, match=rf"--adaptive-softmax-cutoff is \[40, 80\] and {shared} is given"):
        build("--adaptive-softmax-cutoff", "40,80", shared, arch=["--arch", "transformer_tiny"])


def test_quant_noise_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"--quant-noise-pq is 0\.1"):
        build("--quant-noise-pq", "0.1")


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layers_to_keep_on_the_command_line_are_refused(build: Build, side: str) -> None:
    """In --model-overrides they work: tests/tasks/test_model.py."""
    with pytest.raises(ValueError, match=f"--{side}-layers-to-keep is 0,1, which fairseq takes in --model-overrides"):
        build(f"--{side}-layers-to-keep", "0,1")


def test_core_alone_is_smaller_by_the_extension(build: Build, module_name: str) -> None:
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    full, alone = (build(*options, *extra).model for extra in ([], ["--max-level", "1"]))
    full_names = {name: p.shape for name, p in full.named_parameters()}
    alone_names = {name: p.shape for name, p in alone.named_parameters()}
    assert alone_names == {name: shape for name, shape in full_names.items() if "extension_" not in name}
    assert len(alone_names) < len(full_names)


def test_a_checkpoints_options_are_not_run(build: Build) -> None:
    """fconv passes its options to ``eval``: a stranger's checkpoint could bring code in them."""
    built = build()
    built.cfg.model.adaptive_softmax_cutoff = "pytest.fail('ran code')"
    with pytest.raises(ValueError, match="--adaptive-softmax-cutoff is"):
        built.task.build_model(built.cfg.model, from_checkpoint=True)
    built.cfg.model.adaptive_softmax_cutoff = None
    built.cfg.model.encoder_xformers_att_config = "pytest.fail('ran code')"
    with pytest.raises(ValueError, match="--encoder-xformers-att-config is not supported"):
        built.task.build_model(built.cfg.model, from_checkpoint=True)
    built.cfg.model._name = built.cfg.model.arch = "fconv"
    built.cfg.model.encoder_layers = "pytest.fail('ran code')"
    with pytest.raises(ValueError, match="--arch is fconv"):
        built.task.build_model(built.cfg.model, from_checkpoint=True)
