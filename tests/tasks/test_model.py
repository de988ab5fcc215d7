"""Whole models: against stock fairseq, at each level, with and without incremental state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.levels import set_level, use_level
from fairseq_ats.partition.partition import Partition
from tests.fixtures import with_our_attention
from tests.support.conversions import load, save_checkpoint

Build = Callable[..., SimpleNamespace]
Batch = dict[str, Any]


def with_biases(model: torch.nn.Module) -> torch.nn.Module:
    """fairseq starts biases at zero, where a wrong bias would not show."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return model.eval()(**batch["net_input"])[0]


@pytest.mark.parametrize("norm", [[], ["--encoder-normalize-before", "--decoder-normalize-before"]])
def test_super_network_starts_as_the_stock_model(build: Build, batch: Batch, module_name: str, norm: list[str]) -> None:
    stock = with_biases(build(*norm, task="translation", optimizer="adam").model).double()
    ours = copy.deepcopy(stock)
    partition_model_(ours, Partition(module_name, 0.25))
    # The stock softmax is taken in float32 even here (fairseq/utils.py, softmax).
    torch.testing.assert_close(logits(ours.double(), batch), logits(stock, batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_targets_padded_on_the_left(build: Build, module_name: str, dropout: str) -> None:
    """Their first positions have no keys. The loss of training is stock's, gradients of both networks are finite."""
    options = ["--left-pad-target", "--dropout", "0", "--attention-dropout", dropout]
    built = build(*options, "--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    stock = build(*options, task="translation", optimizer="adam").model
    built.task.load_dataset("valid")
    dataset = built.task.dataset("valid")
    batch = dataset.collater([dataset[i] for i in range(8)])
    assert (batch["net_input"]["prev_output_tokens"][:, 0] == 1).any()
    model = copy.deepcopy(stock)
    partition_model_(model, built.task.partition)
    expected = built.criterion(stock.train(), batch)[0]
    for level in (1, 2):
        model.zero_grad()
        with use_level(model.train(), level):
            loss = built.criterion(model, batch)[0]
            loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if dropout == "0":
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_core_is_the_masked_super_network(build: Build, batch: Batch, module_name: str) -> None:
    """f(p ⊙ x) of Algorithm 2, computed by zeroing the extension in the full network."""
    model = with_biases(build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25").model).double()
    masked = copy.deepcopy(model)
    for name, parameter in masked.named_parameters():
        if "extension_" in name:
            parameter.data.zero_()
    with use_level(model, 1):
        torch.testing.assert_close(logits(model, batch), logits(masked, batch), rtol=1e-8, atol=1e-8)
    assert not torch.allclose(logits(model, batch), logits(masked, batch), atol=1e-3)


def test_nan_in_extension_stays_out_of_the_core(build: Build, batch: Batch, module_name: str) -> None:
    model = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25").model
    with use_level(model, 1):
        before = logits(model, batch)
    for name, parameter in model.named_parameters():
        if "extension_" in name:
            parameter.data.fill_(float("nan"))
    with use_level(model, 1):
        assert torch.equal(logits(model, batch), before)
    assert logits(model, batch).isnan().any()


def test_core_alone_computes_what_the_core_computes(build: Build, batch: Batch, module_name: str) -> None:
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    full = build(*options).model
    alone = build(*options, "--max-level", "1").model
    alone.load_state_dict(copy.deepcopy(full.state_dict()))
    with use_level(full, 1):
        assert torch.equal(logits(alone, batch), logits(full, batch))


def test_layers_are_left_out_of_either_network(build: Build, toy_data: Path, tmp_path: Path, module_name: str) -> None:
    """--model-overrides of a run with LayerDrop: fairseq numbers the layers anew after our layers have been asked."""
    layers = ["--encoder-layers", "3", "--decoder-layers", "3"]
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", *layers)
    path = save_checkpoint(built, tmp_path / "checkpoint.pt")
    trained = built.model.state_dict()
    kept = {"encoder_layers_to_keep": "0,2", "decoder_layers_to_keep": "1,2"}
    for level in (1, 2):
        model = load(path, toy_data, max_level=level, **kept)
        assert [len(side.layers) for side in (model.encoder, model.decoder)] == [2, 2]
        for side, numbers in (("encoder", "02"), ("decoder", "12")):
            for new, old in enumerate(numbers):
                for name, parameter in getattr(model, side).layers[new].named_parameters():
                    assert torch.equal(parameter, trained[f"{side}.layers.{old}.{name}"])


def test_prepared_for_inference(build: Build, batch: Batch, module_name: str) -> None:
    """fairseq-generate's preparation changes no result, keeps the core runnable, and follows the model's precision."""
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    built = build(*options)
    model = with_biases(built.model).double()
    plain = {}
    for level in (2, 1):
        with use_level(model, level):
            plain[level] = logits(model, batch)
    model.prepare_for_inference_(built.cfg)
    model.prepare_for_inference_(built.cfg)  # a second time changes nothing
    torch.testing.assert_close(model(**batch["net_input"])[0], plain[2], rtol=1e-8, atol=1e-8)
    with use_level(model, 1):
        torch.testing.assert_close(model(**batch["net_input"])[0], plain[1], rtol=1e-8, atol=1e-8)
    assert model.bfloat16()(**batch["net_input"])[0].dtype == torch.bfloat16


def test_a_prepared_super_network_holds_one_dense_weight(build: Build, module_name: str) -> None:
    """As much as the stock model, and the core, which can still run."""
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    built, stock = build(*options), build(task="translation", optimizer="adam").model
    model = built.model
    core_parts = [p.numel() for name, p in model.named_parameters() if ".core_" in name]
    model.prepare_for_inference_(built.cfg)
    held = sum(t.numel() for t in [*model.parameters(), *model.buffers()])
    assert held == sum(t.numel() for t in [*stock.parameters(), *stock.buffers()]) + sum(core_parts)


def test_a_prepared_super_network_saves_and_counts_itself(build: Build, batch: Batch, module_name: str) -> None:
    """Its state dict is that of a stock model which computes the same, and not that of the core."""
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    stock = build(task="translation", optimizer="adam").model
    model = with_biases(built.model)
    expected = logits(model, batch)
    model.prepare_for_inference_(built.cfg)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in stock.parameters())
    stock.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(logits(stock, batch), expected, rtol=1e-5, atol=1e-5)


def flops(model: torch.nn.Module, batch: Batch) -> int:
    # PyTorch's counter has no formula for the fused attention kernel on CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits(model, batch)
    return counter.get_total_flops()


def test_core_computes_nothing_outside_the_core(build: Build, batch: Batch, module_name: str) -> None:
    """FLOPs of the forward pass, counted by PyTorch, against a count by hand of what leaves each partitioned layer."""
    options = ["--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    full = build(*options, "--encoder-attention-heads", "2", "--decoder-attention-heads", "2").model
    stock = build(
        "--encoder-attention-heads", "2", "--decoder-attention-heads", "2", task="translation", optimizer="adam"
    ).model
    rows: dict[str, int] = {}
    for name, module in full.named_modules():
        if isinstance(module, PartitionedModule):
            module.register_forward_hook(
                lambda m, inputs, out, name=name: rows.__setitem__(name, out.numel() // out.shape[-1])
            )
    with use_level(full, 1):
        core = flops(full, batch)
        kept = {name: m.weight.shape for name, m in full.named_modules() if name in rows}
    linear = {name: m for name, m in stock.named_modules() if name in rows}
    assert len(linear) == len(rows) == 20

    expected = flops(with_our_attention(stock), batch)
    for name, module in linear.items():
        expected -= 2 * rows[name] * module.weight.numel()
        if module_name == "PartitionedRankLinear":
            rank = round(0.25 * min(module.weight.shape))
            expected += 2 * rows[name] * rank * sum(module.weight.shape)
        else:
            expected += 2 * rows[name] * kept[name].numel()
    if module_name == "PartitionedLinear":  # scores in a quarter of the key dimensions
        expected -= score_flops(batch) * 3 // 4
    assert core == expected


def score_flops(batch: Batch) -> int:
    """Of q·k in 2 encoder and 2 decoder layers of width 32."""
    size, source = batch["net_input"]["src_tokens"].shape
    target = batch["net_input"]["prev_output_tokens"].shape[1]
    return 2 * size * 32 * 2 * (source * source + target * target + target * source)


@pytest.mark.parametrize("level", [1, 2])
def test_beam_search_with_and_without_incremental_state(
    build: Build, batch: Batch, module_name: str, level: int
) -> None:
    """Incremental decoding finds the same beams with the same scores as teacher forcing over the whole prefix."""
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    model = with_biases(built.model).double().eval()
    set_level(model, level)
    beams = []
    for incremental in (True, False):
        generator = SequenceGenerator([model], built.task.target_dictionary, beam_size=3, max_len_b=12)
        generator.model.has_incremental = incremental
        beams.append(generator.generate([model], batch))
    compare_beams(*beams)


def test_ensemble_of_two_levels(build: Build, batch: Batch, module_name: str) -> None:
    """Levels belong to modules: two models in one ensemble run at two levels."""
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    core, full = with_biases(built.model).double().eval(), None
    full = copy.deepcopy(core)
    set_level(core, 1)
    generator = SequenceGenerator([core, full], built.task.target_dictionary, beam_size=3, max_len_b=8)
    best = generator.generate([core, full], batch)[0][0]

    prefix = torch.cat([torch.tensor([2]), best["tokens"][:-1]])[None]
    sample = {**batch["net_input"], "prev_output_tokens": prefix}
    sample["src_tokens"], sample["src_lengths"] = sample["src_tokens"][:1], sample["src_lengths"][:1]
    mean = torch.stack([m(**sample)[0].softmax(-1) for m in (core, full)]).mean(0).log()
    scores = mean[0].gather(1, best["tokens"][:, None])[:, 0]
    torch.testing.assert_close(best["positional_scores"].double(), scores, rtol=1e-4, atol=1e-4)


def compare_beams(left: list[list[dict]], right: list[list[dict]]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert [h["tokens"].tolist() for h in a] == [h["tokens"].tolist() for h in b]
        torch.testing.assert_close(
            torch.stack([h["score"] for h in a]), torch.stack([h["score"] for h in b]), rtol=1e-5, atol=1e-6
        )


def test_examples_of_a_validation_are_named(build: Build, batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    """--eval-bleu-print-samples prints one hypothesis of each network."""
    arguments = ["--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 3}', "--eval-bleu-print-samples"]
    built = build(*arguments, "--small-ratio", "0.25")
    built.task.valid_step(batch, built.model, built.criterion)
    printed = [record.message.split(":")[0] for record in caplog.records if record.message.startswith("example ")]
    examples = ["example hypothesis", "example reference"]
    assert printed == ["example of network core", *examples, "example of network super", *examples]
