"""A pair of networks: the core is a stock model, the super-network adds the logits of a second one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim, tasks
from fairseq.models.transformer import TransformerModel
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

from fairseq_ats.architectures.pair import extension_options
from fairseq_ats.architectures.transformer import attentions
from fairseq_ats.convert.formats.onnx_graphs import traced_attention
from fairseq_ats.cost.cost import network_cost
from fairseq_ats.modules.levels import use_level
from tests.support.checkpoints import read_partition
from tests.support.conversions import convert, load, logits, save_checkpoint
from tests.support.kinds import loss_of
from tests.support.plain_gradients import softmax_in_float64

Build = Callable[..., SimpleNamespace]

ARGS = """{"encoder_layers": 1, "decoder_layers": 3, "encoder_embed_dim": 16, "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24, "decoder_ffn_embed_dim": 40, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "decoder_normalize_before": true, "dropout": 0}"""
PAIR = ["--extension-arch", "transformer", "--extension-args", ARGS, "--dropout", "0"]


@pytest.fixture(scope="module")
def pair(build: Build) -> SimpleNamespace:
    built = build(*PAIR, "--alternate")
    with torch.no_grad():  # no bias is zero, and no norm the identity
        for parameter in built.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def copied(pair: SimpleNamespace) -> Any:
    """The model; its tags, which a copy loses, are copied too."""
    model = copy.deepcopy(pair.model)
    for own, theirs in zip(model.parameters(), pair.model.parameters(), strict=True):
        vars(own).update(vars(theirs))
    return model


def stock_halves(pair: SimpleNamespace, model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Two models of fairseq with the weights of the pair."""
    state = model.state_dict()
    own = {name: value for name, value in state.items() if ".beside." not in name}
    other = {name.replace(".beside.extension.", "."): value for name, value in state.items() if ".beside." in name}
    halves = []
    for cfg, values in ((copy.deepcopy(pair.cfg.model), own), (extension_options("transformer", ARGS), other)):
        stock = TransformerModel.build_model(cfg, pair.task).to(next(model.parameters()).dtype)
        nn.Module.load_state_dict(stock, values, strict=True)
        halves.append(stock.eval())
    return halves[0], halves[1]


def beams(pair: SimpleNamespace, model: nn.Module, batch: dict[str, Any]) -> list[list[int]]:
    generator = SequenceGenerator([model], pair.task.target_dictionary, beam_size=3, max_len_b=8)
    return [one["tokens"].tolist() for sentence in generator.generate([model], batch) for one in sentence]


def test_both_networks_against_stock_models(
    pair: SimpleNamespace, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core's logits are the stock model's bit for bit; the sum and its gradients, in float64, to 1e-10."""
    core = stock_halves(pair, pair.model)[0]
    with use_level(pair.model.eval(), 1):
        assert torch.equal(logits(pair.model, batch), logits(core, batch))
        assert beams(pair, pair.model, batch) == beams(pair, core, batch)

    softmax_in_float64(monkeypatch)
    monkeypatch.setattr("fairseq.utils.softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))
    model = copied(pair).double().eval()
    core, other = stock_halves(pair, model)
    expected = loss_of(core(**batch["net_input"])[0] + other(**batch["net_input"])[0], batch)
    expected.backward()
    loss = loss_of(model(**batch["net_input"])[0], batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    of_halves = {id(p): p.grad for stock in (core, other) for p in stock.parameters()}
    found = [p.grad for p in model.parameters()]
    assert sorted(float(g.norm()) for g in found) == pytest.approx(
        sorted(float(g.norm()) for g in of_halves.values()), rel=1e-9, abs=1e-9
    )
    with torch.no_grad():
        source, previous = batch["net_input"]["src_tokens"], batch["net_input"]["prev_output_tokens"]
        encoded, state = model.encoder(source, batch["net_input"]["src_lengths"]), {}
        whole = model.decoder(previous, encoder_out=encoded)[0]
        for end in range(1, 4):
            step = model.decoder(previous[:, :end], encoder_out=encoded, incremental_state=state)[0]
            torch.testing.assert_close(step[:, -1], whole[:, end - 1], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_beam_search_adds_the_logits(pair: SimpleNamespace, batch: dict[str, Any]) -> None:
    """fairseq's search over the pair is its search over a model that computes both whole in every step."""

    class Whole(nn.Module):
        def __init__(self, halves: tuple[nn.Module, nn.Module]) -> None:
            super().__init__()
            self.halves = nn.ModuleList(halves)

        def forward(self, tokens: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            lengths = source.ne(1).sum(1)
            return sum(half(source, lengths, tokens)[0] for half in self.halves)[:, -1]

    model = copied(pair).eval()
    whole = Whole(stock_halves(pair, model))
    found = SequenceGenerator([model], pair.task.target_dictionary, beam_size=3, max_len_b=6).generate([model], batch)
    for source, hypotheses in zip(batch["net_input"]["src_tokens"], found, strict=True):
        for one in hypotheses:
            tokens = torch.cat([torch.tensor([2]), one["tokens"]])
            scores = [
                whole(tokens[None, :end], source[None]).log_softmax(-1)[0, tokens[end]] for end in range(1, len(tokens))
            ]
            torch.testing.assert_close(one["positional_scores"], torch.stack(scores), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_nothing_of_the_extension_reaches_the_core(pair: SimpleNamespace, batch: dict[str, Any]) -> None:
    """NaN in the extension changes no bit of the core's output; zeros in it make the super-network the core."""
    model = copied(pair).eval()
    with use_level(model, 1):
        expected = logits(model, batch)
    outside = [p for name, p in model.named_parameters() if ".extension." in name]
    for parameter in outside:
        parameter.zero_()
    assert torch.equal(logits(model, batch), expected)
    for parameter in outside:
        parameter.fill_(torch.nan)
    assert logits(model, batch).isnan().all()
    with use_level(model, 1):
        assert torch.equal(logits(model, batch), expected)


def test_updates_move_their_network_alone(build: Build, batch: dict[str, Any]) -> None:
    """Bit for bit, weights and Adam's state, in two rounds of ATS; slimmable adds up both networks' gradients."""
    built = build(*PAIR, "--alternate")
    model, task = built.model, built.task
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(model.parameters()))
    adam.set_lr(0.01)

    def state(p: nn.Parameter) -> list[torch.Tensor]:
        own = adam.optimizer.state[p]
        return [
            p.detach().clone(),
            *(torch.as_tensor(own.get(k, 0)).clone() for k in ("exp_avg", "exp_avg_sq", "step")),
        ]

    for number in range(4):
        before = {name: state(p) for name, p in model.named_parameters()}
        adam.zero_grad()
        task.train_step(batch, model, built.criterion, adam, number)
        task.optimizer_step(adam, model, number)
        for name, p in model.named_parameters():
            same = all(map(torch.equal, before[name], state(p)))
            assert same == (number % 2 == 1 and ".extension." in name), f"update {number}: {name}"

    both = build(*PAIR, "--scheme", "slimmable")
    expected = {}
    for level in (1, 2):
        with use_level(both.model, level):
            both.criterion(both.model, batch)[0].backward()
    expected = {name: p.grad.clone() for name, p in both.model.named_parameters()}
    both.model.zero_grad()
    both.task.train_step(batch, both.model, both.criterion, adam, 0)
    for name, p in both.model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_core_leaves_as_the_stock_model(
    pair: SimpleNamespace, batch: dict[str, Any], toy_data: Path, tmp_path: Path
) -> None:
    """Its file has the core's tensors bit for bit under their own names, and fairseq computes the same bits."""
    model = copied(pair).eval()
    saved = save_checkpoint(SimpleNamespace(cfg=pair.cfg, task=pair.task, model=model), tmp_path / "pair.pt", noise=0.0)
    with use_level(model, 1):
        expected = logits(model, batch)
    for to in ("core", "fairseq"):
        output = convert(saved, "core", tmp_path / to, to=to)
        state = torch.load(output, weights_only=True)["model"]
        assert state.keys() == {name for name in model.state_dict() if ".beside." not in name}
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
        assert torch.equal(logits(load(output, toy_data), batch), expected)
    with traced_attention(model):  # for --to onnx
        assert MultiheadAttention not in map(type, model.modules())
    assert all(type(attention) is MultiheadAttention for attention in attentions(model))
    assert read_partition(str(tmp_path / "core")).max_level == 1
    assert torch.equal(logits(load(saved, toy_data), batch), logits(model, batch))
    assert torch.equal(logits(load(saved, toy_data, max_level=1), batch), expected)
    with pytest.raises(SystemExit, match=r"--level is super and .* holds a pair of networks.*allowed: core"):
        convert(saved, "super", tmp_path / "super.pt")


def test_costs(pair: SimpleNamespace, build: Build) -> None:
    core, both = (network_cost(pair.model, pair.task, 2, 5, level) for level in (1, 2))
    plain = build("--dropout", "0", task="translation", optimizer="adam")
    alone = network_cost(plain.model, plain.task, 2, 5)
    other = network_cost(stock_halves(pair, pair.model)[1], plain.task, 2, 5)
    assert (core.parameters, core.flops) == (alone.parameters, alone.flops)
    assert (both.parameters, both.flops) == (alone.parameters + other.parameters, alone.flops + other.flops)


ARCH = {"extension_arch": "transformer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extension_args": "{}"}, "--extension-args is {}, which needs --extension-arch"),
        ({"extension_arch": "bart_base"}, "--extension-arch is bart_base; allowed: fairseq's Transformer"),
        ({"extension_arch": "lstm"}, "--extension-arch is lstm; allowed: fairseq's Transformer"),
        (ARCH | {"small_ratio": "0.5"}, "--extension-arch is transformer and --small-ratio is 0.5; the core is then"),
        (ARCH | {"core_decoder_layers": "1"}, "--extension-arch is transformer and --core-decoder-layers is 1"),
        (ARCH | {"scheme": "meprop", "scheme_args": '{"ratio": 0.1}'}, "and --scheme is meprop, which does not reach"),
        (ARCH | {"private_norms": "all"}, "--extension-arch is transformer and --private-norms is given"),
        (ARCH | {"max_level": 3}, r"--max-level is 3; allowed: 1 \(the core alone\) or 2"),
        (ARCH | {"extension_args": "[1]"}, r"--extension-args is \[1\]; allowed: options in JSON"),
        (ARCH | {"extension_args": '{"dropout": null}'}, r"--extension-args is .*; allowed: options in JSON"),
        (ARCH | {"extension_args": '{"layers": 1}'}, r"options of --extension-arch \(unrecognized arguments: --layers"),
        (ARCH | {"extension_args": '{"encoder_layers": "two"}'}, "--encoder-layers: invalid int value: 'two'"),
        (ARCH | {"extension_args": '{"encoder_layers": true}'}, "--encoder-layers: expected one argument"),
        (ARCH | {"extension_args": '{"adaptive_softmax_cutoff": "fail()"}'}, "has adaptive_softmax_cutoff, which an"),
        (ARCH | {"extension_args": '{"encoder_embed_dim": 5}'}, "--extension-args is .*embed_dim"),
        (ARCH | {"init_super": "core"}, "--init-super is core and no layer is of low rank"),
        (ARCH | {"cutoff": [40]}, r"--extension-arch is transformer and --adaptive-softmax-cutoff is \[40\]"),
    ],
)
def test_what_cannot_work(parse: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    cfg = parse("--dropout", "0")
    if "cutoff" in options:
        cfg.model.adaptive_softmax_cutoff, cfg.model.share_all_embeddings = options["cutoff"], False
    for name, value in options.items():
        if name != "cutoff":
            setattr(cfg.task, name, value)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        tasks.setup_task(cfg.task).build_model(cfg.model)


def test_the_fused_loss_is_refused(parse: Callable[..., Any]) -> None:
    cfg = parse(*PAIR, "--criterion", "fused_label_smoothed_cross_entropy")
    with pytest.raises(ValueError, match="--criterion is fused_label_smoothed_cross_entropy, which needs one output"):
        tasks.setup_task(cfg.task)
