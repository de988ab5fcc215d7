"""The cost model against counts by hand."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.tasks import TASK_REGISTRY
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats import PartitionedRankLinear
from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.checkpoints.keys import TASK_NAME
from fairseq_ats.cli import cost as command
from fairseq_ats.cost import budget, cost
from fairseq_ats.cost.synthetic import Built, build, numbered_dictionary, random_batch
from fairseq_ats.cost.training import TrainingCost, cost_of_options, cost_of_run
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim.mask import ElementMask
from fairseq_ats.partition.partition import Partition
from fairseq_ats.schemes.dropout import neuron_point
from fairseq_ats.schemes.options import SchemeOptions
from fairseq_ats.schemes.partial_sgd import Update
from fairseq_ats.schemes.schedule import Schedule, SchemeName
from tests.fixtures import ROOT
from tests.support.command_line import run
from tests.support.conversions import save_checkpoint
from tests.support.markdown import cells_of

ARCH = """--arch transformer --encoder-layers 2 --decoder-layers 3 --encoder-embed-dim 24 --decoder-embed-dim 24
    --encoder-ffn-embed-dim 40 --decoder-ffn-embed-dim 56 --encoder-attention-heads 3 --decoder-attention-heads 3
    --share-all-embeddings --dropout 0.1""".split()
UNSHARED = [option for option in ARCH if option != "--share-all-embeddings"]
VOCABULARY, D, HEADS = 50, 24, 3
ENCODER, DECODER = (2, 40), (3, 56)  # layers, hidden neurons


def built_of(module_name: str, ratio: float) -> Built:
    options = ["--task", TASK_NAME, "--partitioned-linear-module-name", module_name, "--small-ratio", str(ratio)]
    return build([*ARCH, *options], numbered_dictionary(VOCABULARY))


def flops_by_hand(module_name: str, ratio: float, level: int, sentences: int, length: int) -> int:
    """Forward pass: two FLOPs for each weight and token, and the two products of each attention."""
    tokens = sentences * length
    low_rank = module_name == "PartitionedRankLinear"

    def linear(inputs: int, outputs: int, partitioned_side: str) -> int:
        rank = max(1, round(ratio * min(inputs, outputs)))
        if low_rank and level == 1:
            return 2 * tokens * rank * (inputs + outputs)
        if low_rank:
            return 2 * tokens * inputs * outputs + 2 * rank * inputs * outputs  # the second is V @ U
        core = level == 1
        if partitioned_side == "out" and core:
            outputs = max(1, round(ratio * outputs))
        if partitioned_side == "in" and core:
            inputs = max(1, round(ratio * inputs))
        return 2 * tokens * inputs * outputs

    head = D // HEADS
    narrow_head = max(1, round(ratio * head)) if not low_rank and level == 1 else head
    key = 2 * tokens * D * HEADS * narrow_head if not low_rank else linear(D, D, "out")
    attention = 2 * key + 2 * (2 * tokens * D * D)  # queries and keys; values and output
    attention += 2 * sentences * HEADS * length * length * (narrow_head + head)
    total = 2 * tokens * D * VOCABULARY
    for layers, hidden, attentions in ((*ENCODER, 1), (*DECODER, 2)):
        total += layers * (attentions * attention + linear(D, hidden, "out") + linear(hidden, D, "in"))
    return total


def test_sentences_that_no_training_would_take() -> None:
    limits = ["--max-source-positions", "9", "--max-target-positions", "7"]
    built = build([*ARCH, "--task", TASK_NAME, *limits], numbered_dictionary(VOCABULARY))
    assert cost.network_cost(built.model, built.task, 2, 7, 1).forward_flops > 0
    with pytest.raises(ValueError, match="--length is 8; allowed: up to 7, which is what this model takes"):
        cost.network_cost(built.model, built.task, 2, 8, 1)


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("level", [1, 2])
def test_flops_by_hand(module_name: str, ratio: float, level: int) -> None:
    """Exactly. Backward is twice as much, and W + VU once more, which is not kept from the forward pass."""
    built = built_of(module_name, ratio)
    counted = cost.network_cost(built.model, built.task, 40, 6, level)
    assert counted.forward_flops == flops_by_hand(module_name, ratio, level, 40, 6)
    folded_again = sum(
        2 * m.rank * m.in_features * m.out_features
        for m in built.model.modules()
        if level == 2 and isinstance(m, PartitionedRankLinear)
    )
    assert counted.backward_flops == 2 * counted.forward_flops + folded_again


@pytest.mark.parametrize("sentences", [1, 7, 60])
def test_extrapolation_is_the_count(module_name: str, sentences: int) -> None:
    """Against PyTorch's counter over the whole mini-batch; activation bytes against a direct count too."""
    built = built_of(module_name, 0.25)
    model = built.model
    counted = cost.network_cost(model, built.task, sentences, 5, 2)
    batch = random_batch(built.task, sentences, 5)
    model.train()
    with use_level(model, 2), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**batch["net_input"])[0].sum().backward()
    assert counted.flops == counter.get_total_flops()
    assert counted.activation_bytes == pytest.approx(cost._count(model, batch, 2)[2], rel=0.001)


def test_activation_bytes_of_one_layer() -> None:
    """What autograd keeps: the input of a linear layer; for the core of a low-rank one, also U x."""

    class OneLayer(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer = layer

    model = OneLayer(PartitionedRankLinear.from_linear(torch.nn.Linear(16, 8), 0.25))
    for level, expected in ((2, 4 * 100 * 16), (1, 4 * (100 * 16 + 100 * 2))):
        with use_level(model, level), cost._saved_bytes(model) as saved:
            model.layer(torch.randn(100, 16, requires_grad=True))
        assert sum(saved.values()) == expected, level


def test_parameters(module_name: str, build: Callable[..., SimpleNamespace]) -> None:
    """The core's are those of a model that was built as the core alone."""
    options = ("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25")
    built = build(*options)
    for level in (1, 2):
        alone = build(*options, "--max-level", str(level)).model
        counted = cost.network_cost(built.model, built.task, 2, 5, level)
        assert counted.parameters == sum(p.numel() for p in alone.parameters())
        assert counted.embedding_parameters == alone.encoder.embed_tokens.weight.numel()
        assert counted.state_bytes == 16 * counted.parameters


def test_counting_leaves_the_model_as_it_was() -> None:
    built = built_of("PartitionedLinear", 0.5)
    model = built.model.eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    cost.network_cost(model, built.task, 2, 5, 1)
    assert not model.training
    for name, p in model.named_parameters():
        assert p.grad is None
        assert torch.equal(p, before[name])


def test_schemes() -> None:
    costs = {1: cost.Cost(1, 1, 10, 20, 1), 2: cost.Cost(1, 1, 30, 60, 1)}
    # Distilled: (90 + 30 + a forward pass of 30) / 2.
    assert list(cost.scheme_flops(costs).values()) == [90, 30, 60, 75, 120]
    assert cost.scheme_flops(costs, (3, 1))["ATS (alternate 3:1)"] == (3 * 90 + 30) / 4
    assert list(cost.scheme_flops(costs, (3, 1), (1, 2)).values())[-2:] == [(3 * 90 + 30) / 4, (90 + 2 * 30) / 3]
    assert cost.scheme_flops({1: costs[1]}) == {"core only": 30}
    three = costs | {3: cost.Cost(1, 1, 100, 200, 1)}
    assert list(cost.scheme_flops(three).values()) == [300, 30, 140, (300 + (90 + 100) + (30 + 100)) / 3, 420]


def test_half_of_the_neurons_cost_what_a_core_of_half_the_width_costs() -> None:
    built = built_of("PartitionedLinear", 0.5)
    parts = built.task.model_parts(built.model)
    groups = [*parts.hidden, *parts.keys]
    point, scales = neuron_point(2, [(group, torch.arange(group.size) < group.size // 2) for group in groups])
    update = Update(0, (point,), ElementMask({p: scale > 0 for p, scale in scales.items()}))
    half = cost.network_cost(built.model, built.task, 4, 7, 2, update)
    core = cost.network_cost(built.model, built.task, 4, 7, 1)
    assert (half.forward_flops, half.backward_flops) == (core.forward_flops, core.backward_flops)
    assert all(p.requires_grad for p in built.model.parameters())


def flops_of_parts(built: Any, scheme: Any) -> float:
    parts = built.task.model_parts(built.model)
    return cost.scheme_of_parts_flops(scheme, parts, partial(cost.network_cost, built.model, built.task, 4, 7, 2))


def test_flops_of_schemes_of_parts() -> None:
    """Relative to standard training: two passes, one of three parts of a pass, shorter backward passes."""
    built = built_of("PartitionedLinear", 0.5)
    standard = cost.network_cost(built.model, built.task, 4, 7, 2)
    found = {}
    for name, arguments in (
        ("extragradient", '{"step": 1}'),
        ("meprop", '{"kind": "unified", "ratio": 0.1}'),
        ("layerwise", "{}"),
        ("layerwise", '{"order": "growing"}'),
        ("prune", '{"sparsity": 0.5, "end": 3, "feedback": false}'),
        ("prune", '{"sparsity": 0.5, "end": 3}'),
    ):
        scheme = SchemeOptions(SchemeName(name), arguments=arguments).scheme_of(2)
        found[arguments] = flops_of_parts(built, scheme) / standard.flops
    two, shorter, layers, grown, half, whole = found.values()
    assert grown == 1
    assert two == 2
    assert whole == 1
    assert 0.4 < shorter < 0.75
    assert 1 / 3 < layers < shorter + 0.2
    assert 0.5 < half < 1
    options = [*ARCH, "--task", TASK_NAME, "--partitioned-linear-module-name", "PartitionedLinear"]
    options += ["--scheme", "extragradient", "--scheme-args", '{"step": 1}']
    of_run = cost_of_options(options, VOCABULARY, tokens=28, sentences=4)
    assert of_run.flops(3) == 3 * 2 * standard.flops


def test_flops_of_a_run_that_prunes(build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    """The scheme and its arguments are read from the checkpoint."""
    scheme = ["--scheme", "prune", "--scheme-args", '{"sparsity": 0.5, "end": 1, "every": 1, "feedback": false}']
    built = build("--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25", *scheme)
    built.task.scheme.update(1)
    save_checkpoint(built, tmp_path / "run.pt")
    of_run = cost_of_run(tmp_path / "run.pt", tokens=28, sentences=4)
    expected = flops_of_parts(built, built.task.scheme)
    assert of_run.flops(3) == 3 * round(expected)
    assert of_run.trained(3) == {2}
    assert expected < cost.network_cost(built.model, built.task, 4, 7, 2).flops


def test_flops_of_a_training() -> None:
    """Phases and distillation: where the super-network runs anyway, its soft targets cost nothing."""
    costs = {1: cost.Cost(1, 1, 10, 20, 1), 2: cost.Cost(1, 1, 30, 60, 1)}
    phases = {"super_only_updates": 2, "core_only_from": 5}
    slimmable = Schedule("slimmable", 2, **phases)
    assert cost.training_flops(costs, slimmable, range(7)) == 2 * 90 + 3 * 120 + 2 * 30
    assert cost.training_flops(costs, slimmable, range(7), distils=True) == 2 * 90 + 3 * 120 + 2 * (30 + 30)
    alternate = Schedule("alternate", 2, **phases)
    assert cost.training_flops(costs, alternate, range(7), distils=True) == 2 * 90 + (90 + 60 + 90) + 2 * 60
    late = cost.training_flops(costs, alternate, range(7), distils=True, distils_from=6)
    assert late == 2 * 90 + (90 + 30 + 90) + 30 + 60
    changes = Schedule("alternate", 2, (1, 1), changes=((4, (2, 1)),))  # 2 1 2 1, 2 2 1 2
    assert cost.training_flops(costs, changes, range(8)) == (90 + 30 + 90 + 30) + (90 + 90 + 30 + 90)
    training = TrainingCost(costs, changes, distils=True, distils_from=2)
    assert training.flops(5) == (90 + 30) + (90 + 60) + 90


def test_frozen_parameters_have_no_gradient_to_count() -> None:
    """Below a frozen layer the backward pass goes on: only the product that is the weight's gradient is left out."""
    options = ["--task", TASK_NAME, *ARCH, "--partitioned-linear-module-name", "PartitionedLinear", "--alternate"]
    counted, frozen = (
        cost_of_options([*options, *more], VOCABULARY, 20.0, 4.0).costs[2]
        for more in ([], ["--freeze", r"decoder\.layers\.\d\.fc1"])
    )
    layers, hidden = DECODER
    assert counted.backward_flops - frozen.backward_flops == layers * 2 * 20 * D * hidden
    assert counted.forward_flops == frozen.forward_flops


def test_a_training_is_counted_by_its_options() -> None:
    """Every update of its own, of a pattern that changes and of distillation that begins late."""
    options = "--alternate --alternate-pattern 1:1@0,2:1@3 --distillation-weight 0.5 --distillation-from 3".split()
    options = ["--task", TASK_NAME, *ARCH, "--small-ratio", "0.25", *options]
    counted = cost_of_options(options, VOCABULARY, 20.0, 4.0)
    big, small = counted.costs[2], counted.costs[1]
    assert counted.flops(6) == 4 * big.flops + 2 * small.flops + big.forward_flops  # 2 1 2, 2 2 1


def test_layers_that_layerdrop_leaves_out_are_counted(module_name: str) -> None:
    """Whatever is drawn: the network as it is meant."""
    options = ["--task", TASK_NAME, "--partitioned-linear-module-name", module_name, "--small-ratio", "0.25"]
    layerdrops = ["--encoder-layerdrop", "0.5", "--decoder-layerdrop", "0.5"]
    built = build([*ARCH, *options, *layerdrops], numbered_dictionary(VOCABULARY))
    whole = built_of(module_name, 0.25)
    for level in (1, 2):
        counted = cost.network_cost(built.model, built.task, 4, 5, level)
        assert counted == cost.network_cost(whole.model, whole.task, 4, 5, level)
    assert built.model.encoder.layers.training


def test_command() -> None:
    options = ("--small-ratio", "0.25", "--alternate", "--alternate-pattern", "2:1")
    sizes = ("--vocabulary", "50", "--tokens", "200", "--length", "5")
    printed = run(["-m", "fairseq_ats.cost", *ARCH, *options, *sizes])
    assert printed.startswith("transformer: ")  # and not with the log of a library
    assert "small_ratio=0.25" in printed
    assert "| ATS (alternate) |" in printed
    assert "| ATS (alternate 2:1) |" in printed
    model = built_of("PartitionedRankLinear", 0.25).model
    assert f"| super | {sum(p.numel() for p in model.parameters()):,} |" in printed


def test_a_checkpoint_with_two_vocabularies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*UNSHARED, "--share-decoder-input-output-embed", "--task", TASK_NAME]
    parser_options = build(options, numbered_dictionary(VOCABULARY)).cfg
    task = TASK_REGISTRY[TASK_NAME](parser_options.task, numbered_dictionary(70), numbered_dictionary(40))
    model = task.build_model(parser_options.model)
    cfg = OmegaConf.to_container(parser_options) | {"model": vars(parser_options.model)}
    cfg["model"] = Namespace(**cfg["model"])
    del cfg["task"]["scheme"], cfg["task"]["distillation_weight"]  # of which older versions knew nothing
    state = {"cfg": cfg, "args": None, "model": model.state_dict(), "task_state": task.state_dict()}
    history = [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}]
    torch.save(state | {"extra_state": {}, "optimizer_history": history}, tmp_path / "two.pt")
    command.main([str(tmp_path / "two.pt"), "--tokens", "20", "--length", "5"])
    assert f"| super | {sum(p.numel() for p in model.parameters()):,} |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a checkpoint, or --arch"),
        (["nowhere.pt"], "nowhere.pt is not a file"),
        (["README.md"], "cannot be read as a checkpoint"),
        (["--arch", "transformer", "--length", "0"], "argument --length: 0 is not allowed; allowed"),
        (["--arch", "transformer", "--vocabulary", "3"], "--vocabulary is 3; allowed: more than"),
        (["--arch", "transformer", "--small-ratio", "2"], "--small-ratio is 2.0; allowed"),
        (
            [*UNSHARED, "--adaptive-softmax-cutoff", "20,30"],
            "--adaptive-softmax-cutoff is [20, 30], with which the cost",
        ),
        ([*ARCH, "--max-target-positions", "5", "--decoder-learned-pos"], "--length is 25; allowed: up to 5"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(ROOT / a) if Path(a).suffix == ".md" else a for a in arguments]
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in said


def test_cores_within_a_budget(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is a core as it is counted by itself: options, parameters, FLOPs of an update."""
    monkeypatch.setattr(budget, "RATIOS", dict.fromkeys(budget.RATIOS, (0.25,)))
    arch = [*ARCH, "--decoder-layers", "4", "--encoder-layers", "3"]
    command.main([*arch, "--vocabulary", str(VOCABULARY), "--length", "6", "--core-flops", "0.5"])
    rows = cells_of(capsys.readouterr().out)[1:]
    stock = build(["--task", "translation", *arch], numbered_dictionary(VOCABULARY))
    whole = cost.network_cost(stock.model, stock.task, 2, 6)
    assert rows[0][1] == f"{whole.parameters:,}"
    steps = [float(row[2]) for row in rows[1:]]
    assert steps == sorted(steps)
    assert all(float(row[3]) <= 0.5 for row in rows[1:])
    kinds = {row[0].partition(", ")[2].partition(":")[0] for row in rows[1:]}
    assert kinds == {"whole", "width", "rank"}
    for kind in kinds:
        row = next(row for row in rows if f", {kind}" in row[0])
        words = row[-1].strip("`").replace("--partitioned-linear-module-name", "--module-name").split()
        given = {name.strip("-").replace("-", "_"): value for name, value in zip(words[::2], words[1::2], strict=True)}
        model = copy.deepcopy(stock.model)
        partition_model_(model, Partition(**given))
        core = cost.network_cost(model, stock.task, 2, 6, 1)
        assert row[1] == f"{core.parameters:,}"
        assert float(row[3]) == pytest.approx(core.flops / whole.flops, abs=0.006)
        assert float(row[4]) == pytest.approx((1 + core.flops / whole.flops) / 2, abs=0.006)
    monkeypatch.setattr(budget, "RATIOS", {})
    with pytest.raises(ValueError, match="no core is within the budget; the nearest are: --core-encoder-layers 1"):
        budget.cores_within(stock.model, stock.task, 6, 1000, None)
    with pytest.raises(SystemExit):
        command.main([*arch, "--core-flops", "1.5"])
    assert "--core-flops is 1.5; allowed: 0 < F < 1" in capsys.readouterr().err


def test_a_decoding_step_by_hand() -> None:
    """Every weight of the decoder but keys and values of the source; scores of two target and six source tokens."""
    built = build(["--task", "translation", *ARCH], numbered_dictionary(VOCABULARY))
    layers, hidden = DECODER
    products = 6 * D * D + 2 * D * hidden + 2 * D * (2 + 6)  # self-attention 4, cross-attention 2
    assert budget._step_flops(built.model, built.task, 6, None) == 2 * (layers * products + D * VOCABULARY)
