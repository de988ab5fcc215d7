"""More than two networks: several ratios in --small-ratio, in layers, models, the optimizer, options and commands."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from fairseq_ats import FairseqAdamForPartitionedModel, PartitionedLinear, PartitionedRankLinear
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.saved_options import saved_options
from fairseq_ats.cli import cost as command
from fairseq_ats.cost import cost
from fairseq_ats.data.folder import DataFolder
from fairseq_ats.inference.deployed_folder import DeployedFolder
from fairseq_ats.inference.evaluation import networks_of
from fairseq_ats.inference.loading import load_network
from fairseq_ats.modules.levels import freeze_outside, set_level, use_level
from fairseq_ats.modules.linear_base import PartitionedLinearModule
from fairseq_ats.optim.mask import LevelMask
from fairseq_ats.partition.partition import Partition, reconciled
from fairseq_ats.partition.shares import parse_small_ratio
from fairseq_ats.partition.tags import holds
from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig
from fairseq_ats.training.best_checkpoints import best_of_other_networks
from fairseq_ats.translate import Translator
from tests.checkpoints.test_average import averaged, checkpoint, refusal
from tests.end_to_end.test_training import assert_same_state, events
from tests.end_to_end.test_training import load as read
from tests.fixtures import OUR_TASK
from tests.modules.test_layers import core_rows, linear
from tests.optim.test_adam import build_optimizer, config, snapshot, update
from tests.support.checkpoints import read_partition
from tests.support.command_line import BLEU, hypotheses, train
from tests.support.conversions import convert, load, logits, save_checkpoint
from tests.support.updates import lowest_level
from tests.tasks.test_model import with_biases

Build = Callable[..., SimpleNamespace]

RATIOS = (0.25, 0.5)  # of three networks
HIERARCHY = ["--small-ratio", "0.25,0.5"]
ascending = st.lists(st.floats(0.01, 0.99), min_size=2, max_size=4, unique=True).map(sorted)
sizes = st.integers(1, 16)


# Layers, against a plain reference in float64.


@settings(max_examples=25)
@given(width=sizes, per_group=sizes, groups=st.integers(1, 3), ratios=ascending, bias=st.booleans())
def test_small_width(width: int, per_group: int, groups: int, ratios: list[float], bias: bool) -> None:
    """Every level has the first rows, or columns, of each group; two levels may have the same."""
    size = per_group * groups
    narrow = PartitionedLinear.from_linear(writing := linear(width, size, bias), ratios, dim=0, groups=groups)
    reads = PartitionedLinear.from_linear(reading := linear(size, width, bias), ratios, dim=1)
    x, hidden = torch.randn(3, width, dtype=torch.float64), torch.randn(3, size, dtype=torch.float64)
    for level, ratio in enumerate([*ratios, 1.0], start=1):
        rows = core_rows(size, ratio, groups)
        with use_level(narrow, level):
            expected = F.linear(x, writing.weight[rows], writing.bias[rows] if bias else None)
            torch.testing.assert_close(narrow(x), expected, rtol=1e-12, atol=1e-12)
        columns = core_rows(size, ratio, groups=1)
        with use_level(reads, level):
            expected = F.linear(hidden[:, columns], reading.weight[:, columns], reading.bias)
            torch.testing.assert_close(reads(hidden[:, columns]), expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=25)
@given(inputs=sizes, outputs=sizes, ratios=ascending, rows=st.integers(1, 20), bias=st.booleans())
def test_low_rank(inputs: int, outputs: int, ratios: list[float], rows: int, bias: bool) -> None:
    """At start, level l is the stock weight's best approximation of rank k_l; after training, what its blocks say."""
    stock = linear(inputs, outputs, bias)
    layer = PartitionedRankLinear.from_linear(stock, ratios).double()
    left, values, right = np.linalg.svd(stock.weight.detach().numpy(), full_matrices=False)
    x = torch.randn(rows, inputs, dtype=torch.float64)
    ranks = [max(1, round(ratio * min(inputs, outputs))) for ratio in ratios]
    for level, rank in enumerate(ranks, start=1):
        dense = torch.from_numpy(left[:, :rank] * values[:rank] @ right[:rank])
        with use_level(layer, level):
            torch.testing.assert_close(layer(x), F.linear(x, dense, stock.bias), rtol=1e-4, atol=1e-5)  # SVD in float32
    torch.testing.assert_close(layer(x), stock(x), rtol=1e-10, atol=1e-10)

    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    dense = torch.zeros(outputs, inputs, dtype=torch.float64)
    middle = [f"extension_{level}" for level in range(2, len(ratios) + 1)]
    for level, block in enumerate(["core", *middle, "extension"], start=1):
        if block == "extension":
            dense = dense + layer.extension_weight
        else:
            dense = dense + getattr(layer, f"{block}_v") @ getattr(layer, f"{block}_u")
        with use_level(layer, level):
            torch.testing.assert_close(layer(x), F.linear(x, dense, layer.core_bias), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(layer.weight, dense, rtol=1e-10, atol=1e-10)


def layer_of(kind: str, ratios: Sequence[float] = RATIOS, **options: Any) -> PartitionedLinearModule:
    """12 → 8, or its narrower levels."""
    stock = linear(12, 8)
    if kind == "low rank":
        return PartitionedRankLinear.from_linear(stock, ratios, **options).double()
    choices = {"narrow output": {"dim": 0}, "narrow heads": {"dim": 0, "groups": 2}, "narrow input": {"dim": 1}}
    return PartitionedLinear.from_linear(stock, ratios, **choices[kind], **options)


def input_of(layer: PartitionedLinearModule, level: int) -> torch.Tensor:
    return torch.linspace(-1, 2, 5 * layer.weight_at(level).shape[1], dtype=torch.float64).reshape(5, -1)


KINDS = ["narrow output", "narrow heads", "narrow input", "low rank"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_above_a_level_reaches_it(kind: str) -> None:
    for level in (1, 2):
        layer = layer_of(kind)
        set_level(layer, level)
        before = layer(input_of(layer, level))
        for parameter in layer.parameters():
            if lowest_level(parameter) == level + 1:
                parameter.data.fill_(float("nan"))
        assert torch.equal(layer(input_of(layer, level)), before)
        set_level(layer, level + 1)
        assert layer(input_of(layer, level + 1)).isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_level_between(kind: str) -> None:
    layer = layer_of(kind)
    x = input_of(layer, 2).requires_grad_()

    def run(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        with use_level(layer, 2):
            return layer(x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))
    with use_level(layer, 2):
        layer(x).sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad is None) == (lowest_level(parameter) == 3), name


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_for_decoding_at_a_level_between(kind: str) -> None:
    """The level computes the same, the core too; the parameters are the level's, and nothing else is held."""
    for ratios in (RATIOS, (0.25, 0.9)):
        layer = layer_of(kind, ratios)
        set_level(layer, 2)
        expected, weight = layer(input_of(layer, 2)), layer.weight
        thin, dense = sum(p.numel() for p in layer.parameters() if holds(p, 2)), layer.weight_at(2).numel()
        x, of_core = input_of(layer, 2), layer.weight_at(1)
        layer.make_generation_fast_()
        layer.make_generation_fast_()
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.weight, weight, rtol=1e-12, atol=1e-12)
        assert not [name for name, _ in layer.named_parameters() if name.startswith("extension")]
        held = sum(parameter.numel() for name, parameter in layer.named_parameters() if name != "bias")
        assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict())
        # Two thin matrices where they are smaller: rank 4, and not 7, of 12 → 8.
        assert held == (thin - layer.core_bias.numel() if (kind, ratios) == ("low rank", RATIOS) else dense)
        with use_level(layer, 1):
            torch.testing.assert_close(layer.weight, of_core, rtol=0, atol=0)
        with pytest.raises(ValueError, match=r"level is 3; this model holds level\(s\) 1, 2"):
            set_level(layer, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_levels_are_built_and_loaded(kind: str) -> None:
    full = layer_of(kind)
    names = {level: {n for n, p in full.named_parameters() if holds(p, level)} for level in (1, 2, 3)}
    assert len(names[1]) < len(names[2]) < len(names[3]) == len(list(full.parameters()))
    for level in (1, 2):
        small = layer_of(kind, max_level=level)
        assert {name for name, _ in small.named_parameters()} == names[level]
        state = {f"here.{name}": value for name, value in full.state_dict().items()}
        small.upgrade_state_dict_named(state, "here")
        small.load_state_dict({name.removeprefix("here."): value for name, value in state.items()})
        with use_level(full, level):
            x = input_of(full, level)
            assert torch.equal(small(x), full(x))


def test_one_ratio_has_the_names_that_it_always_had() -> None:
    for ratio in (0.25, (0.25,)):
        narrow, low_rank = layer_of("narrow output", ratio), layer_of("low rank", ratio)
        assert list(narrow.state_dict()) == ["core_weight", "extension_weight", "core_bias", "extension_bias"]
        assert list(low_rank.state_dict()) == ["core_u", "core_v", "extension_weight", "core_bias"]
    between = ["core_u", "core_v", "extension_2_u", "extension_2_v", "extension_weight", "core_bias"]
    assert list(layer_of("low rank").state_dict()) == between


# The mask.


@pytest.mark.parametrize("wrapper", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["low rank", "small width"])
def test_an_update_moves_its_level_and_those_below(wrapper: str, kind: str) -> None:
    torch.manual_seed(2)
    stock, after = nn.Linear(5, 6), nn.Linear(6, 5)
    layers = [PartitionedLinear.from_linear(stock, RATIOS, dim=0), PartitionedLinear.from_linear(after, RATIOS, dim=1)]
    model = (
        nn.Sequential(PartitionedRankLinear.from_linear(stock, RATIOS))
        if kind == "low rank"
        else nn.Sequential(*layers)
    )
    model = model.half() if wrapper == "fp16" else model
    optimizer = build_optimizer(wrapper, config(), model)
    update(optimizer, model, 3, zero_filled=True, clip=0.5)
    for level in (2, 1, 3):
        before = snapshot(optimizer, model)
        assert {entry["level"] for entry in before} == {1, 2, 3}
        update(optimizer, model, level, zero_filled=True, clip=0.5)
        for old, new in zip(before, snapshot(optimizer, model), strict=True):
            moved = old["level"] <= level
            assert new["step"] == old["step"] + moved, new["name"]
            assert all(torch.equal(a, b) for a, b in zip(old["tensors"], new["tensors"], strict=True)) != moved


def test_the_coefficient_scales_every_update_below_the_highest_level() -> None:
    """The first step of Adam, from zero moments, is the learning rate itself."""
    for level, expected in ((1, 0.005), (2, 0.005), (3, 0.01)):
        layer = layer_of("low rank")
        optimizer = FairseqAdamForPartitionedModel(
            config(alternate_lr_coef=0.5, weight_decay=0.0).optimizer, list(layer.parameters())
        )
        before = layer.core_u.detach().clone()
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        with optimizer.optimizer.masked(LevelMask((level,))):
            optimizer.step()
        torch.testing.assert_close(before - layer.core_u, torch.full_like(before, expected), rtol=1e-6, atol=0)


def test_frozen_above_each_level() -> None:
    layer = layer_of("low rank")
    for level in (1, 3, 2):
        freeze_outside(layer, (level,))
        assert all(p.requires_grad == (holds(p, level)) for p in layer.parameters())


# The partition and its options.


def test_a_partition_is_saved_and_read_back(tmp_path: Path) -> None:
    partition = Partition("PartitionedLinear", [0.1, 0.2, 0.5], 3)
    assert (partition.super_level, list(partition.levels)) == (4, [1, 2, 3])
    assert partition.network_levels == {"core": 1, "level2": 2, "level3": 3, "super": 4}
    assert [partition.level_of(name) for name in ("core", "level2", 3, "super", "4")] == [1, 2, 3, 4, 4]
    saved = {"module_name": "PartitionedLinear", "small_ratio": [0.1, 0.2, 0.5], "max_level": 3}
    assert partition.to_dict() == saved == json.loads(json.dumps(saved))
    torch.save({"model": {}, "task_state": {"partition": saved}}, tmp_path / "a.pt")
    assert read_partition(str(tmp_path / "a.pt")) == partition
    assert Partition("PartitionedLinear", (0.25,)) == Partition("PartitionedLinear", 0.25, 2)
    with pytest.raises(ValueError, match="--level is level5; allowed: core, level2, level3, super, 1, 2, 3, 4"):
        partition.level_of("level5")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.25", 0.25), (0.25, 0.25), ("0.1,0.5", (0.1, 0.5)), (" 1e-2 , 0.5", (0.01, 0.5)), (None, None)],
)
def test_the_option_is_text_or_an_old_number(value: Any, expected: Any) -> None:
    """fairseq's configuration holds text; a number of an older checkpoint or of a YAML file becomes text there."""
    assert parse_small_ratio(value) == expected
    task = OmegaConf.merge(OmegaConf.structured(PartitionedTranslationConfig), {"small_ratio": value})
    assert parse_small_ratio(task.small_ratio) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--small-ratio", "0.5,0.25"], r"--small-ratio is 0\.5,0\.25; allowed: 0 < ratio < 1, each larger than"),
        (["--small-ratio", "0.5,0.5"], "each larger than the one before it"),
        (["--small-ratio", "0.5,1"], r"--small-ratio is 0\.5,1\.0; allowed"),
        (["--small-ratio", "0.5,"], "--small-ratio is '0.5,'; allowed: a number, or several"),
        (["--small-ratio", "half"], "--small-ratio is 'half'; allowed: a number"),
        ([*HIERARCHY, "--max-level", "4"], r"--max-level is 4; allowed: 1 \(the core alone\) to 3"),
        (["--small-ratio", "2", "--max-level", "7"], r"--small-ratio is 2.*--max-level is 7"),
        ([*HIERARCHY, "--best-checkpoint-metric", "level2_bleu"], "level2_bleu, which needs --eval-bleu"),
        ([*HIERARCHY, "--best-checkpoint-metric", "level3_loss"], "no network level3; it has core, level2, super"),
        (
            [*HIERARCHY, "--best-checkpoint-metric", "level2_loss", "--max-level", "2"],
            "level2 is the highest network of this run, and reports as loss",
        ),
    ],
)
def test_refused(build: Build, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)


def test_two_levels_that_are_one_network_are_refused(build: Build, module_name: str) -> None:
    """In some layers two ratios may come to the same size: in this model a head has 8 dimensions."""
    options = ["--partitioned-linear-module-name", module_name]
    with pytest.raises(
        ValueError, match=r"0\.25,0\.251,0\.5, and in a model of these sizes levels 1 and 2 are the same"
    ):
        build(*options, "--small-ratio", "0.25,0.251,0.5")
    built = build(*options, "--small-ratio", "0.25,0.28,0.5")
    empty = [name for name, p in built.model.named_parameters() if "extension_2_" in name and p.numel() == 0]
    assert bool(empty) == (module_name == "PartitionedLinear")


def test_a_checkpoint_decides() -> None:
    saved = Partition("PartitionedLinear", RATIOS, 2)
    assert reconciled({"small_ratio": RATIOS, "max_level": 1}, saved, "it").max_level == 1
    with pytest.raises(
        ValueError, match=r"--small-ratio is 0\.25 and it was trained with 0\.25,0\.5; leave the option"
    ):
        reconciled({"small_ratio": 0.25}, saved, "it")
    with pytest.raises(ValueError, match="--max-level is 3 and it holds levels 1 to 2 only"):
        reconciled({"max_level": 3}, saved, "it")
    with pytest.raises(ValueError, match=r"--max-level is 4; allowed: 1 \(the core alone\) to 3 \(the super-network\)"):
        reconciled({"max_level": 4}, saved, "it")


@pytest.mark.parametrize(
    ("max_level", "metric", "others"),
    [
        (3, "loss", {"core": "core_loss", "level2": "level2_loss"}),
        (3, "level2_bleu", {"core": "core_bleu", "super": "bleu"}),
        (3, "core_loss", {"level2": "level2_loss", "super": "loss"}),
        (2, "loss", {"core": "core_loss"}),
        (2, "core_loss", {"level2": "loss"}),
        (1, "loss", {}),
    ],
)
def test_best_checkpoints(max_level: int, metric: str, others: dict[str, str]) -> None:
    found = best_of_other_networks(Partition(small_ratio=RATIOS, max_level=max_level), metric, maximize=False)
    assert {best.network: best.metric for best in found} == others
    assert all(best.file_name == f"checkpoint_best_{best.network}.pt" for best in found)


# Models and commands.


def test_levels_inside_a_model(build: Build, module_name: str, batch: dict[str, Any]) -> None:
    """Each level is the super-network with everything above it masked by zeros, and a model built up to that level."""
    options = ["--partitioned-linear-module-name", module_name, *HIERARCHY]
    model = with_biases(build(*options).model).double()
    found = {}
    for level in (3, 2, 1):
        with torch.no_grad():
            for parameter in model.parameters():
                if not holds(parameter, level):
                    parameter.zero_()
        with use_level(model, level):
            found[level] = logits(model.eval(), batch)
        torch.testing.assert_close(found[level], logits(model, batch), rtol=1e-8, atol=1e-8)
        alone = build(*options, "--max-level", str(level)).model.double()
        alone.load_state_dict(model.state_dict())
        assert torch.equal(logits(alone.eval(), batch), found[level])
    assert (found[2] - found[3]).abs().max() > 1e-3 < (found[1] - found[2]).abs().max()


UPDATES = 7
LAST_TWO = ("checkpoint_1_4.pt", "checkpoint_last.pt")


@pytest.fixture(scope="module")
def run_dir(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks, alternating: updates 0, 3, 6 train the super-network, 1 and 4 level 2, 2 and 5 the core."""
    directory = tmp_path_factory.mktemp("three")
    (directory / "log").write_text(train(toy_data, directory, UPDATES, *three_networks(), *HIERARCHY))
    return directory


def three_networks() -> list[str]:
    options = [
        "--alternate",
        "--partitioned-linear-module-name",
        "PartitionedRankLinear",
        *BLEU,
        "--log-format",
        "json",
    ]
    return [*options, "--validate-interval-updates", "4", "--save-interval-updates", "4"]


def test_log_and_best_checkpoints(run_dir: Path) -> None:
    log = (run_dir / "log").read_text()
    updates = events(log, "train_inner")
    for number, entry in enumerate(updates):
        trained = ("super", "level2", "core")[number % 3]
        assert entry[f"{trained}_gnorm"] == entry["gnorm"]
        assert None not in entry.values()
    assert [updates[n]["level2_loss"] == updates[n - 1]["level2_loss"] for n in (2, 3, 4)] == [True, True, False]
    for entry in events(log, "valid"):
        for name in ("loss", "nll_loss", "ppl", "bleu"):
            assert {f"valid_{name}", f"valid_level2_{name}", f"valid_core_{name}"} <= set(entry)
        assert float(entry["valid_level2_ppl"]) == pytest.approx(2 ** float(entry["valid_level2_nll_loss"]), rel=1e-2)
    for network in ("core", "level2"):
        best = min(events(log, "valid"), key=lambda entry: float(entry[f"valid_{network}_loss"]))
        kept = read(run_dir / f"checkpoint_best_{network}.pt")
        assert kept["optimizer_history"][-1]["num_updates"] == int(best["valid_num_updates"])
    assert not (run_dir / "checkpoint_best_super.pt").exists()
    state = read(run_dir / "checkpoint_last.pt")["extra_state"]["TranslationWithPartitionedModelTask"]
    assert [entry["metric"] for entry in state] == ["core_loss", "level2_loss"]


def test_the_mask_in_a_real_run(run_dir: Path) -> None:
    """Updates 4, 5 and 6: level 2, the core, the super-network. Adam counts steps where it moves a parameter."""
    before, after = (read(run_dir / name)["last_optimizer_state"]["state"] for name in LAST_TWO)
    steps = {1: 3, 2: 2, 3: 1}
    for index, parameter in enumerate(parameters_of(run_dir / LAST_TWO[1])):
        assert after[index]["step"] - before[index]["step"] == steps[lowest_level(parameter)]


def parameters_of(path: Path) -> list[nn.Parameter]:
    """In the model's order, with their levels."""
    model, _ = load_network(Checkpoint.open(path), DataFolder.find(None, saved_options(read(path), "task")))
    return list(model.parameters())


def test_resume_is_exact(run_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    """Stopped before an update of level 2, and started again without naming the partition."""
    shutil.copy(run_dir / LAST_TWO[0], tmp_path / "checkpoint_last.pt")
    train(toy_data, tmp_path, UPDATES, *three_networks())
    states = [read(folder / "checkpoint_last.pt") for folder in (tmp_path, run_dir)]
    assert_same_state(*states)
    ours = [state["extra_state"]["TranslationWithPartitionedModelTask"] for state in states]
    assert ours[0] == ours[1]
    for name in ("core", "level2"):
        best = [read(folder / f"checkpoint_best_{name}.pt")["model"] for folder in (tmp_path, run_dir)]
        assert all(torch.equal(best[0][key], best[1][key]) for key in best[1])


def generated(data: Path, path: str, *extra: str) -> dict[int, str]:
    """``fairseq-generate``, in this process."""
    arguments = [str(data), "--task", OUR_TASK, "--path", path, "--cpu", "--max-tokens", "800", "--beam", "2", *extra]
    parser = options.get_generation_parser()
    args = options.parse_args_and_arch(parser, input_args=[*arguments, "--max-len-b", "12"])
    with redirect_stdout(io.StringIO()) as said:
        generate.main(convert_namespace_to_omegaconf(args))
    return hypotheses(said.getvalue())


def test_every_network_is_decoded(run_dir: Path, toy_data: Path) -> None:
    path = str(run_dir / "checkpoint_last.pt")
    found = [generated(toy_data, path, "--max-level", level) for level in "123"]
    assert [len(sentences) for sentences in found] == [40] * 3
    assert found[0] != found[1] != found[2]
    assert found[1] == generated(toy_data, f"{path}:{path}", "--max-level", "2"), "an ensemble of one network twice"
    translator = Translator(path, level="level2", data=toy_data, beam=2, max_len_b=12)
    lines = (toy_data / "test.en").read_text().splitlines()
    pieces = {number: translator._text.decode(text.split()) for number, text in found[1].items()}
    assert translator(lines) == [pieces[number] for number in range(40)]
    with pytest.raises(ValueError, match="--level is level3; allowed: core, level2, super, 1, 2, 3"):
        Translator(path, level="level3", data=toy_data)


def test_networks_of_a_run(run_dir: Path) -> None:
    """``fairseq-ats evaluate`` decodes each network from its own best checkpoint."""
    networks = networks_of(run_dir)
    files = ["checkpoint_best.pt", "checkpoint_best_level2.pt", "checkpoint_best_core.pt"]
    assert [(n.name, n.level, n.checkpoint.path.name) for n in networks] == list(
        zip(("super", "level2", "core"), (3, 2, 1), files, strict=True)
    )


def test_costs(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(run_dir / "checkpoint_last.pt"), "--tokens", "40", "--length", "5"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| (super|level2|core) \| ([\d,]+) \|", printed, re.MULTILINE)
    assert [name for name, _ in rows] == ["super", "level2", "core"]
    parameters = parameters_of(run_dir / "checkpoint_last.pt")
    for (_, size), level in zip(rows, (3, 2, 1), strict=True):
        assert size == f"{sum(p.numel() for p in parameters if holds(p, level)):,}"
    costs = {level: cost.Cost(1, 1, flops, 2 * flops, 1) for level, flops in ((1, 10), (2, 20), (3, 60))}
    # standard, core, ATS, ATS with distillation (the two smaller ask the super-network, 60 each), slimmable
    assert list(cost.scheme_flops(costs).values()) == [180, 30, 90, 130, 270]


def test_level_2_is_converted(
    build: Build, toy_data: Path, tmp_path: Path, batch: dict[str, Any], module_name: str
) -> None:
    """To stock fairseq, and to a folder that says what it is; a low-rank network is multiplied out on request only."""
    source = save_checkpoint(build("--partitioned-linear-module-name", module_name, *HIERARCHY), tmp_path / "source.pt")
    low_rank = module_name == "PartitionedRankLinear"
    if low_rank:
        with pytest.raises(SystemExit, match="this level 2 is of low rank; --to onnx keeps its layers thin"):
            convert(source, "level2", tmp_path / "level2.pt")
    path = convert(source, "level2", tmp_path / "level2.pt", *(["--dense"] if low_rank else []))
    expected = {level: logits(load(source, toy_data, max_level=level), batch) for level in (1, 2, 3)}
    found = logits(load(path, toy_data), batch)
    torch.testing.assert_close(found, expected[2], rtol=1e-4, atol=1e-4)
    assert min((expected[2] - expected[level]).abs().max() for level in (1, 3)) > 1e-2
    with pytest.raises(SystemExit, match="--level is level7; allowed: core, level2, super, 1, 2, 3"):
        convert(source, "level7", tmp_path / "other.pt")

    core = convert(source, "core", tmp_path / "core.pt", to="core")
    assert read_partition(str(core)) == Partition(module_name, RATIOS, 1)
    assert torch.equal(logits(load(core, toy_data), batch), expected[1])


def test_a_checkpoint_whose_options_hold_a_number(build: Build, toy_data: Path, tmp_path: Path) -> None:
    """As those of versions that knew one ratio."""
    source = save_checkpoint(build("--small-ratio", "0.25"), tmp_path / "source.pt")
    state = read(source)
    assert state["task_state"]["partition"]["small_ratio"] == 0.25
    state["cfg"]["task"]["small_ratio"] = 0.25
    torch.save(state, source)
    for level in (1, 2):
        layer = next(
            m for m in load(source, toy_data, max_level=level).modules() if isinstance(m, PartitionedLinearModule)
        )
        assert (layer.max_level, layer.super_level, layer.rank) == (level, 2, 8)


def test_a_folder_of_level_2(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    partition = Partition("PartitionedLinear", RATIOS)
    fields = {"source_dictionary": "a", "target_dictionary": "b", "sentencepiece_model": None, "weights": "float32"}
    fields |= {"source_language": "en", "target_language": "de", "lowercase": False, "format": "onnx"}
    folder = DeployedFolder(
        **fields, network="level2", partition=partition, max_source_positions=9, max_target_positions=9
    )
    folder.write(tmp_path)
    assert DeployedFolder.read(tmp_path) == folder
    assert folder.level == 2


def test_best_checkpoints_of_level_2_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    partition = {"module_name": "PartitionedLinear", "small_ratio": [0.25, 0.5], "max_level": 3}
    for updates, (of_super, of_level2, of_core) in enumerate(
        [(1.0, 5.0, 3.0), (2.0, 4.0, 1.0), (3.0, 6.0, 2.0)], start=1
    ):
        path = checkpoint(
            tmp_path / f"checkpoint{updates}.pt", updates, val_loss=of_super, task_state={"partition": partition}
        )
        state = read(path)
        values = {"core_loss": of_core, "level2_loss": of_level2}
        state["extra_state"]["TranslationWithPartitionedModelTask"] = [
            {"metric": metric, "best": value, "value": value} for metric, value in values.items()
        ]
        torch.save(state, path)
    for network, expected in (("super", 1.5), ("level2", 1.5), ("core", 2.5)):
        state = averaged(tmp_path, "--best", "2", "--network", network, tmp_path / "mean.pt")
        assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), expected)), network
    arguments = [tmp_path, "--best", 1, "--network", "level3", "--output", tmp_path / "mean.pt"]
    assert "--network is level3 and" in refusal(capsys, *arguments)
