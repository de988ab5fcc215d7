"""Every kind of partition, and kinds combined, through everything that the plugin does."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim, tasks
from fairseq.logging import metrics
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.checkpoints.average import average_checkpoints
from fairseq_ats.cost.cost import network_cost
from fairseq_ats.modules.levels import use_level
from fairseq_ats.partition.names import criterion_name
from fairseq_ats.partition.partition import Partition, reconciled
from fairseq_ats.partition.tags import holds
from fairseq_ats.translate import Translator
from tests.end_to_end.test_training import events
from tests.support.checkpoints import differences, read_partition
from tests.support.checkpoints import load as load_state
from tests.support.command_line import BLEU, train
from tests.support.conversions import convert, load, logits, save_checkpoint
from tests.support.kinds import KINDS, LAYERS, WIDTH, build, build_stock, dense, layers_of, loss_of, plain_loss


@pytest.fixture(scope="module")
def parsed(parse: Callable[..., Any]) -> Any:
    return parse("--alternate", "--dropout", "0")


@pytest.fixture(scope="module")
def batch(parsed: Any) -> dict[str, Any]:
    """One mini-batch with padding in source and target."""
    task = tasks.setup_task(copy.deepcopy(parsed.task))
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return dataset.collater([dataset[i] for i in range(8)])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq's softmaxes are in float32 whatever the model's precision."""
    monkeypatch.setattr("fairseq.utils.softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))


def with_noise(model: nn.Module) -> nn.Module:
    """No bias is zero, and no norm the identity."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.usefixtures("exact")
def test_every_network_against_a_stock_model(parsed: Any, kind: str, batch: dict[str, Any]) -> None:
    """Outputs and the gradients of all blocks, in float64, against stock fairseq with dense weights; 1e-10."""
    built = build(parsed, kind)
    model = with_noise(built.model.double()).eval()
    highest = built.task.partition.super_level
    values = dict(model.named_parameters())
    assert any(not holds(p, 1) for p in values.values())
    for level in built.task.partition.levels:
        stock = build_stock(built, kind, level).double().eval()
        copies = {name: p.detach().clone().requires_grad_() for name, p in values.items()}
        weights = dense(stock, copies, kind, level, highest)
        expected = plain_loss(stock, weights, batch)
        expected.backward()
        model.zero_grad()
        with use_level(model, level):
            loss = loss_of(model(**batch["net_input"])[0], batch)
            loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        for name, parameter in values.items():
            wanted = copies[name].grad
            assert (parameter.grad is None) == (wanted is None) == (not holds(parameter, level)), name
            if wanted is not None:
                torch.testing.assert_close(
                    parameter.grad, wanted, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
                )


def test_updates_move_their_network_alone(parsed: Any, kind: str, batch: dict[str, Any]) -> None:
    """Bit for bit, weights and Adam's moments and step counts, through the task's own hooks."""
    built = build(parsed, kind)
    model, task = built.model, built.task
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(model.parameters()))
    adam.set_lr(0.01)
    highest = task.partition.super_level
    trained = {level: outside_of(model, level, batch)[1] for level in task.partition.levels}

    def state(name: str, p: nn.Parameter) -> list[torch.Tensor]:
        of_adam = adam.optimizer.state[p]
        return [p.detach().clone(), *(torch.as_tensor(of_adam.get(key, 0)).clone() for key in ADAM)]

    for number in range(2 * highest):
        level = highest - number % highest
        before = {name: state(name, p) for name, p in model.named_parameters()}
        adam.zero_grad()
        task.train_step(batch, model, built.criterion, adam, number)
        task.optimizer_step(adam, model, number)
        for name, p in model.named_parameters():
            same = all(map(torch.equal, before[name], state(name, p)))
            assert same == (name not in trained[level]), f"update {number}: {name}"
            # Or fairseq would fill its gradient with zeros before several workers add them up.
            assert name in trained[level] or not p.requires_grad, name


ADAM = ("exp_avg", "exp_avg_sq", "step")


def outside_of(model: nn.Module, level: int, batch: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The names of the parameters that a network does not use, and of those that it does, by its gradients."""
    model.zero_grad()
    with use_level(model, level):
        loss_of(model(**batch["net_input"])[0], batch).backward()
    used = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {name for name, _ in model.named_parameters()} - used, used


@torch.no_grad()
def test_nothing_outside_reaches_a_network(parsed: Any, kind: str, batch: dict[str, Any]) -> None:
    """NaN in everything outside a network leaves its output, its decoding and its size as they are, bit for bit."""
    built = build(parsed, kind)
    model = with_noise(built.model).eval()
    whole = copy.deepcopy(model.state_dict())
    for level in built.task.partition.levels:
        model.load_state_dict(copy.deepcopy(whole))
        with torch.enable_grad():
            outside, used = outside_of(model, level, batch)
        with use_level(model, level):
            expected = model(**batch["net_input"])[0]
            decoded = beams(built, model, batch)
            for name, p in model.named_parameters():
                if name in outside:
                    p.fill_(torch.nan)
            assert torch.equal(model(**batch["net_input"])[0], expected)
            assert beams(built, model, batch) == decoded
        alone = build(parsed, kind, max_level=level, alternate=level > 1)
        alone.model.load_state_dict(model.state_dict())
        assert torch.equal(alone.model.eval()(**batch["net_input"])[0], expected)
        assert used <= {name for name, _ in alone.model.named_parameters()}
        alone.model.make_generation_fast_()
        assert beams(built, alone.model, batch) == decoded


def beams(built: SimpleNamespace, model: nn.Module, batch: dict[str, Any]) -> list[list[int]]:
    """Tokens of all hypotheses by fairseq's beam search, which decodes step by step."""
    generator = SequenceGenerator([model], built.task.target_dictionary, beam_size=3, max_len_b=8)
    found = generator.generate([model], batch)
    return [one["tokens"].tolist() for sentence in found for one in sentence]


@pytest.mark.usefixtures("exact")
@torch.no_grad()
def test_step_by_step(parsed: Any, kind: str, batch: dict[str, Any]) -> None:
    """Decoding with caches is teacher forcing, in float64; also the attention that alignments come from."""
    built = build(parsed, kind)
    model = with_noise(built.model.double()).eval()
    source, previous = batch["net_input"]["src_tokens"], batch["net_input"]["prev_output_tokens"]
    for level in built.task.partition.levels:
        with use_level(model, level):
            encoded = model.encoder(source, batch["net_input"]["src_lengths"])
            whole, extra = model.decoder(previous, encoder_out=encoded)
            _, of_last = model.decoder(previous, encoder_out=encoded, alignment_layer=LAYERS - 1)
            assert torch.equal(of_last["attn"][0], extra["attn"][0])
            state: dict[str, Any] = {}
            for end in range(1, 4):
                step, step_extra = model.decoder(previous[:, :end], encoder_out=encoded, incremental_state=state)
                torch.testing.assert_close(step[:, -1], whole[:, end - 1], rtol=1e-10, atol=1e-10)
                weights = step_extra["attn"][0][:, -1], extra["attn"][0][:, end - 1]
                torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)  # float32 in our attention


def test_recomputed_activations(parsed: Any, batch: dict[str, Any]) -> None:
    """With --checkpoint-activations every network has the same gradients."""
    gradients = []
    for recomputes in (False, True):
        built = build(parsed, "three networks", checkpoint_activations=recomputes)
        for level in (1, 2, 3):
            built.model.zero_grad()
            with use_level(built.model, level):
                loss_of(built.model(**batch["net_input"])[0], batch).backward()
            gradients.append({name: p.grad for name, p in built.model.named_parameters() if p.grad is not None})
    for plain, recomputed in zip(gradients[:3], gradients[3:], strict=True):
        assert plain.keys() == recomputed.keys()
        for name, gradient in plain.items():
            torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_slimmable_update(parsed: Any, batch: dict[str, Any]) -> None:
    """Its gradient is the sum of the networks' own."""
    built = build(parsed, "depth, final norms private", alternate=False, scheme="slimmable")
    model, expected = built.model, {}
    for level in built.task.partition.levels:
        model.zero_grad()
        with use_level(model, level):
            built.criterion(model, batch)[0].backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                expected[name] = expected.get(name, 0) + p.grad
    model.zero_grad()
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(model.parameters()))
    built.task.train_step(batch, model, built.criterion, adam, 0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("exact")
def test_criteria(parsed: Any, kind: str, batch: dict[str, Any]) -> None:
    """Of each network, by its own forward pass and the parameters that it shares with the super-network; 1e-10."""
    built = build(parsed, kind, criteria_interval=1)
    model = with_noise(built.model.double())
    reference = copy.deepcopy(model)
    levels = built.task.partition.levels
    of_level = {}
    for level in levels:
        reference.zero_grad()
        with use_level(reference, level):
            built.criterion(reference, batch)[0].backward()
        of_level[level] = {name: p.grad.flatten() for name, p in reference.named_parameters() if p.grad is not None}
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(model.parameters()))
    built.task.train_step(batch, model, built.criterion, adam, 0)
    built.task.optimizer_step(adam, model, 0)
    with metrics.aggregate() as logged:
        built.task.criteria.log()
    whole = of_level.pop(levels[-1])
    for level, gradients in of_level.items():
        shared = sorted(gradients.keys() & whole.keys())
        full = torch.cat(list(whole.values()))
        masked, perturbed = (torch.cat([of[name] for name in shared]) for of in (whole, gradients))
        assert masked.numel() < full.numel()
        expected = {
            "c_norm": full.norm() / masked.norm(),
            "c_sim": masked.norm() / perturbed.norm(),
            "alpha_t": min(torch.tensor(1.0), masked @ perturbed / perturbed.norm() ** 2),
        }
        for name, value in expected.items():
            assert logged[criterion_name(name, level)].val == pytest.approx(float(value), rel=1e-10), name


def test_costs(parsed: Any, kind: str) -> None:
    """Parameters and FLOPs are those of the network that is built alone; a core costs less."""
    built = build(parsed, kind)
    levels = built.task.partition.levels
    costs = [network_cost(built.model, built.task, 2, 5, level) for level in levels]
    for level, cost in zip(levels, costs, strict=True):
        alone = build(parsed, kind, max_level=level, alternate=level > 1)
        assert cost.parameters == len_of(p for p in alone.model.parameters() if holds(p, level))
        assert cost.forward_flops == network_cost(alone.model, alone.task, 2, 5, level).forward_flops
    assert all(a.parameters < b.parameters and a.flops < b.flops for a, b in pairwise(costs))
    if kind == "depth":
        plain = network_cost(build_stock(built, kind, 1), built.task, 2, 5)
        assert (costs[0].parameters, costs[0].flops) == (plain.parameters, plain.flops)


def len_of(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


@pytest.fixture
def sentences(toy_data: Path, tmp_path: Path) -> Path:
    file = tmp_path / "sentences"
    file.write_text("".join((toy_data / "test.en").read_text().splitlines(keepends=True)[:4]))
    return file


# A network of random weights does not know where to stop.
SHORT = {"max_target_positions": 12}


def converted(built: SimpleNamespace, folder: Path, level: int, to: str, sentences: Path) -> Path:
    """Each format verifies itself: log-probabilities of the whole vocabulary, and equal beams."""
    source = save_checkpoint(built, folder / "source.pt", noise=0.0)
    partition = built.task.partition
    thin = partition.splits_by("PartitionedRankLinear") and level < partition.super_level and to != "core"
    options = ["--verify-on", str(sentences), *(["--dense"] if thin and to != "onnx" else [])]
    return convert(source, level, folder / f"{to}{level}", *options, to=to)


def test_stock_fairseq(
    parsed: Any, kind: str, batch: dict[str, Any], toy_data: Path, sentences: Path, tmp_path: Path
) -> None:
    """Every network below the super-network is a stock model, with its own numbers of layers."""
    built = build(parsed, kind, **SHORT)
    with_noise(built.model).eval()
    for level in built.task.partition.levels[:-1]:
        stock = load(converted(built, tmp_path, level, "fairseq", sentences), toy_data)
        assert type(stock.decoder.layers) is nn.ModuleList
        layers = {side: len(indices) for side, indices in layers_of(kind, level).items()}
        assert layers == {side: len(getattr(stock, side).layers) for side in layers}
        with use_level(built.model, level):
            torch.testing.assert_close(logits(stock, batch), logits(built.model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["depth and width", "rank in qk, width in ffn and vo", "depth, all norms private"])
def test_ctranslate2(parsed: Any, kind: str, sentences: Path, tmp_path: Path) -> None:
    converted(build(parsed, kind, **SHORT), tmp_path, 1, "ctranslate2", sentences)


@pytest.mark.parametrize("kind", ["depth, post-norm", "three networks"])
def test_the_core_alone(parsed: Any, kind: str, sentences: Path, tmp_path: Path) -> None:
    built = build(parsed, kind, **SHORT)
    output = converted(built, tmp_path, 1, "core", sentences)
    assert read_partition(str(output)) == dataclasses.replace(built.task.partition, max_level=1)
    parameters = dict(built.model.named_parameters())
    in_core = {name for name, p in parameters.items() if holds(p, 1)}
    assert in_core == torch.load(output, weights_only=True)["model"].keys() & parameters.keys()


def test_warm_start(parsed: Any, batch: dict[str, Any], sentences: Path, tmp_path: Path) -> None:
    """From a stock model: the super-network computes the same in any order, and the best values come first."""
    built = build(parsed, "depth and width", **SHORT)
    with_noise(built.model).eval()
    options = {"core_vo": "width:0.25", "init_from": str(converted(built, tmp_path, 2, "fairseq", sentences)), **SHORT}
    for order in ("unchanged", "importance"):
        model = build(parsed, "depth and width", init_order=order, **options).model.eval()
        torch.testing.assert_close(logits(model, batch), logits(built.model, batch), rtol=1e-4, atol=1e-4)
        attention = model.decoder.layers[2].self_attn
        rows = torch.cat([attention.v_proj.weight, attention.v_proj.bias[:, None]], 1).norm(dim=1)
        of_heads = (rows * attention.out_proj.weight.norm(dim=0)).unflatten(0, (4, -1))
        assert torch.equal(of_heads, of_heads.sort(dim=1, descending=True).values) == (order == "importance")


REFUSED = [
    ({"core_decoder_layers": "0"}, "--core-decoder-layers is 0; allowed: 1 layer or more"),
    ({"core_decoder_layers": "4"}, "--core-decoder-layers is 4; allowed: up to 3, the value of --decoder-layers"),
    ({"core_decoder_layers": "2,1"}, "--core-decoder-layers is 2,1; allowed: 1 layer or more, each larger than the"),
    ({"core_decoder_layers": "two"}, "--core-decoder-layers is 'two'; allowed: a whole number from 1 up"),
    ({"core_decoder_layers": "1,2", **WIDTH}, "--small-ratio has 1 and --core-decoder-layers has 2; allowed: one"),
    ({"core_encoder_layers": "2,2", "core_decoder_layers": "2,2"}, "levels 1 and 2 are the same network"),
    ({"core_encoder_layers": "3", "core_decoder_layers": "3"}, "levels 1 and 2 are the same network"),
    ({"core_decoder_layers": "2", "decoder_layerdrop": 0.1}, "--decoder-layerdrop is 0.1; leave one of them out"),
    ({"core_decoder_layers": "2", "decoder_layers_to_keep": "0,1"}, "--decoder-layers-to-keep is 0,1; leave one"),
    ({"core_ffn": "narrow:0.5"}, "--core-ffn is 'narrow:0.5'; allowed: whole, rank:R or width:R"),
    ({"core_qk": "width:2"}, "--core-qk is width:2.0; allowed: 0 < ratio < 1"),
    ({"core_ffn": "whole"}, "--core-ffn makes no network smaller than the super-network"),
    ({"core_layers": "last", **WIDTH}, "--core-layers is last, which needs --core-encoder-layers or"),
    ({"core_decoder_layers": "2", "init_super": "core"}, "--init-super is core and no layer is of low rank"),
    ({"core_decoder_layers": "2", "private_norms": "all", "alternate": False}, "--private-norms is all, which needs"),
    ({"core_decoder_layers": "2", "private_norms": "final"}, "--private-norms is final, and this --arch has no norm"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(parsed: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(parsed, "depth, post-norm", **(dict.fromkeys(KINDS["depth, post-norm"]) | options))


def test_layers_that_share_parameters_are_refused(parsed: Any) -> None:
    built = build(parsed, "width")
    stock = build_stock(built, "width", 2)
    stock.decoder.layers[2].fc1 = stock.decoder.layers[0].fc1
    with pytest.raises(ValueError, match="--core-decoder-layers is 2, and layers of the decoder share parameters"):
        partition_model_(stock, Partition(core_decoder_layers=2))


def test_a_checkpoint_decides() -> None:
    saved = Partition(core_decoder_layers=(1, 2), core_ffn="rank:0.1,0.2")
    assert Partition.from_dict(saved.to_dict()) == saved
    assert reconciled({"core_decoder_layers": "1,2", "max_level": 1}, saved, "it").max_level == 1
    for given, message in (
        ({"core_decoder_layers": "1,3"}, "--core-decoder-layers is 1,3 and it was trained with 1,2; leave the option"),
        ({"core_ffn": "width:0.1,0.2"}, "--core-ffn is width:0.1,0.2 and it was trained with rank:0.1,0.2"),
        ({"core_qk": "whole"}, "--core-qk is whole and it was trained without it"),
        ({"core_layers": "first"}, "--core-layers is first and it was trained with last; leave the option"),
    ):
        with pytest.raises(ValueError, match=message):
            reconciled(given, saved, "it")
    assert Partition("PartitionedLinear", 0.25).to_dict().keys() == {"module_name", "small_ratio", "max_level"}


def test_an_older_description_means_the_first_layers() -> None:
    given = {"module_name": "PartitionedLinear", "small_ratio": 0.25, "max_level": 2, "core_decoder_layers": 3}
    assert Partition.from_dict(given).layers_at("decoder", 6) == [(0, 1, 2)]
    assert Partition.from_dict(Partition(**given).to_dict()).layers_at("decoder", 6) == [(3, 4, 5)]


OPTIONS = "--core-decoder-layers 1,2 --core-ffn rank:0.125,0.25 --core-vo width:0.25,0.25 --private-norms all".split()
SIZES = "--encoder-layers 1 --decoder-layers 3 --decoder-normalize-before --distillation-weight 0.5".split()


def test_a_run_of_several_kinds(toy_data: Path, tmp_path: Path) -> None:
    """Alternating with distillation, monitor and validation; resumed without its partition, bit for bit; averaged."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    common = ["--alternate", *SIZES, *BLEU, "--validate-interval-updates", "4", "--save-interval-updates", "4"]
    common += ["--criteria-interval", "3"]
    log = train(toy_data, whole, 7, *common, *OPTIONS, "--log-format", "json")
    assert {"core_bleu", "level2_bleu", "bleu"} <= {name.removeprefix("valid_") for name in events(log, "valid")[-1]}
    assert all(float(events(log, "train_inner")[0][name]) >= 1 for name in ("c_norm", "level2_c_norm"))
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_1_4.pt", resumed / "checkpoint_last.pt")
    train(toy_data, resumed, 7, *common)
    for name in ("checkpoint_last.pt", "checkpoint_best_core.pt", "checkpoint_best_level2.pt"):
        assert not differences(load_state(whole / name), load_state(resumed / name)), name
    states = [load_state(whole / name)["model"] for name in ("checkpoint_1_4.pt", "checkpoint_last.pt")]
    mean = average_checkpoints([str(whole / "checkpoint_1_4.pt"), str(whole / "checkpoint_last.pt")])["model"]
    assert all(torch.allclose(mean[name], (states[0][name] + states[1][name]) / 2) for name in mean)
    lines = (toy_data / "test.en").read_text().splitlines()[:3]
    for level in ("core", "level2", "super"):
        assert len(Translator(whole / "checkpoint_best_core.pt", level=level, data=toy_data, max_len_b=8)(lines)) == 3
