"""Training schemes: which networks an update trains, and that it trains them as a few plain lines would."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import metrics, optim
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from fairseq.optim.fp16_optimizer import FP16Optimizer, MemoryEfficientFP16Optimizer
from fairseq.trainer import Trainer
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.schemes.pattern import as_text, parsed_patterns
from fairseq_ats.schemes.schedule import Schedule
from tests.fixtures import with_our_attention
from tests.support.plain_networks import NOISE, adam_by_hand, dense_gradients, set_dense_weights

Build = Callable[..., SimpleNamespace]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("standard", 2), "2 2 2 2"),
        (Schedule("standard", 1), "1 1 1 1"),
        (Schedule("core", 1), "1 1 1 1"),
        (Schedule("alternate", 2), "2 1 2 1 2"),
        (Schedule("alternate", 3), "3 2 1 3 2 1 3"),
        (Schedule("alternate", 2, (3, 1)), "2 2 2 1 2 2 2 1"),
        (Schedule("alternate", 3, (2, 1, 3)), "3 3 2 1 1 1 3 3 2"),
        (Schedule("alternate", 2, (1, 2), super_only_updates=3), "2 2 2 2 1 1 2 1 1"),
        (Schedule("alternate", 2, (), super_only_updates=1, core_only_from=4), "2 2 1 2 1 1 1"),
        (Schedule("alternate", 2, (1, 1), changes=((4, (2, 1)),)), "2 1 2 1 2 2 1 2 2 1"),
        (Schedule("alternate", 2, (1, 1), changes=((3, (2, 1)), (5, (1, 2)))), "2 1 2 2 2 2 1 1 2 1 1"),
        (Schedule("alternate", 2, (1, 2), 2, 7, ((1, (3, 1)), (5, (1, 1)))), "2 2 2 2 2 2 1 1 1"),
        (Schedule("slimmable", 2), "21 21"),
        (Schedule("slimmable", 3, (), super_only_updates=1, core_only_from=3), "3 321 321 1 1"),
    ],
)
def test_levels_of_updates(schedule: Schedule, expected: str) -> None:
    wanted = [tuple(map(int, update)) for update in expected.split()]
    assert [schedule.update(n).levels for n in range(len(wanted))] == wanted


@given(
    pattern=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    super_only_updates=st.integers(0, 7),
    periods=st.integers(0, 10**6),
)
def test_a_pattern_repeats_and_counts(pattern: list[int], super_only_updates: int, periods: int) -> None:
    """Any period holds each level as often as the pattern says, from the highest down, and is like the first."""
    schedule = Schedule("alternate", len(pattern), tuple(pattern), super_only_updates)
    first = [schedule.update(super_only_updates + n).levels for n in range(sum(pattern))]
    assert sorted(first, reverse=True) == first
    counts = collections.Counter(level for update in first for level in update)
    assert [counts[level] for level in range(len(pattern), 0, -1)] == pattern
    start = super_only_updates + periods * sum(pattern)
    assert [schedule.update(start + n).levels for n in range(sum(pattern))] == first
    assert {schedule.update(n).levels for n in range(super_only_updates)} <= {(len(pattern),)}


def parsed_pattern(text: str) -> tuple[int, ...]:
    """The turns with which a training begins."""
    return parsed_patterns(text)[0][1]


def test_parsed_pattern() -> None:
    assert parsed_pattern("3:1") == (3, 1)
    assert parsed_pattern("10:2:1") == (10, 2, 1)
    for wrong in ("", "3:", "0:1", "-1:1", "1.5:1", "a:b", "²:1"):
        with pytest.raises(ValueError, match=r"--alternate-pattern is .* allowed: whole numbers above 0"):
            parsed_pattern(wrong)


@given(
    patterns=st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=2), min_size=2, max_size=4),
    lengths=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    super_only_updates=st.integers(0, 12),
)
def test_a_pattern_that_changes_is_one_pattern_after_the_other(
    patterns: list[list[int]], lengths: list[int], super_only_updates: int
) -> None:
    """Written out update by update, by a loop that keeps its place in the pattern."""
    starts = [sum(lengths[:n]) for n in range(len(patterns))]
    text = ",".join(f"{a}:{b}@{start}" for (a, b), start in zip(patterns, starts, strict=True))
    assert as_text(parsed_patterns(text)) == text
    first, *changes = parsed_patterns(text)
    schedule = Schedule("alternate", 2, first[1], super_only_updates, changes=tuple(changes))
    assert schedule.pattern_text == text
    place, turn = 0, []
    for number in range(45):
        if number in starts:
            place, turn = 0, [2] * patterns[starts.index(number)][0] + [1] * patterns[starts.index(number)][1]
        expected = 2
        if number >= super_only_updates:
            expected, place = turn[place % len(turn)], place + 1
        assert schedule.update(number).levels == (expected,), number


def test_patterns_that_change_are_read_and_written() -> None:
    assert parsed_patterns("3:1") == ((0, (3, 1)),) == parsed_patterns("3:1@0")
    assert parsed_patterns("1:1@0,2:1@4000") == ((0, (1, 1)), (4000, (2, 1)))
    for wrong in ("1:1,2:1@4", "1:1@0,2:1", "1:1@1", "1:1@0,2:1@0", "1:1@0,2:1@5,1:1@4", "1:1@0,", "1:1@-1", "@0"):
        with pytest.raises(ValueError, match=r"--alternate-pattern is .*; allowed: .* as in 1:1@0,2:1@4000"):
            parsed_patterns(wrong)


def test_impossible_schedules() -> None:
    with pytest.raises(ValueError, match="--alternate-pattern is 1:1@0,2:1:1@4; allowed: 2 numbers"):
        Schedule("alternate", 2, (1, 1), changes=((4, (2, 1, 1)),))
    with pytest.raises(ValueError, match="--scheme slimmable needs two networks"):
        Schedule("slimmable", 1)
    # What YAML makes of 3:1.
    with pytest.raises(ValueError, match=r"--alternate-pattern is 181; allowed: 2 numbers.* in quotes"):
        Schedule("alternate", 2, parsed_pattern("181"))


# Options, levels of each update, weight and temperature of distillation, learning rate of updates of the core alone.
REFERENCES = {
    "standard": ([], [[2]] * 2, 0.0, 1.0, 1.0),
    "core": (["--scheme", "core"], [[1]] * 2, 0.0, 1.0, 1.0),
    "pattern": (["--alternate", "--alternate-pattern", "2:1"], [[2], [2], [1], [2]], 0.0, 1.0, 1.0),
    "pattern that changes": (
        ["--alternate", "--alternate-pattern", "1:1@0,1:2@1"],
        [[2], [2], [1], [1]],
        0.0,
        1.0,
        1.0,
    ),
    "slimmable": (["--scheme", "slimmable"], [[2, 1]] * 2, 0.0, 1.0, 1.0),
    "phases": (
        "--scheme slimmable --super-only-updates 1 --core-only-from 2 --alternate-lr-coef 0.5".split(),
        [[2], [2, 1], [1]],
        0.0,
        1.0,
        0.5,
    ),
    "alternate, distilled": (
        "--alternate --distillation-weight 0.4 --distillation-temperature 2".split(),
        [[2], [1], [2]],
        0.4,
        2.0,
        1.0,
    ),
    "alternate, distilled late": (
        "--alternate --distillation-weight 0.4 --distillation-from 2".split(),
        [[2], [1], [2], [1]],
        0.4,
        1.0,
        1.0,
    ),
    "slimmable, distilled": (
        "--scheme slimmable --distillation-weight 0.7 --distillation-temperature 1.5".split(),
        [[2, 1]] * 2,
        0.7,
        1.5,
        1.0,
    ),
}


@pytest.fixture(scope="module")
def stock(build: Build) -> torch.nn.Module:
    """Whose weights each use sets anew."""
    return with_our_attention(build("--dropout", "0", task="translation", optimizer="adam").model.double())


@pytest.mark.parametrize(
    ("options", "levels_of_updates", "weight", "temperature", "lr_coef"), REFERENCES.values(), ids=REFERENCES
)
def test_updates_against_plain_networks_in_float64(
    build: Build,
    stock: torch.nn.Module,
    batch: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    levels_of_updates: list[list[int]],
    weight: float,
    temperature: float,
    lr_coef: float,
) -> None:
    """Stock models with the dense weights of each network, autograd, the chain rule and Adam by hand."""
    # fairseq's is in float32 whatever the model's precision.
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))
    built = build(*options, "--small-ratio", "0.25", "--dropout", "0")
    model = built.model.double()
    cfg = built.cfg.optimizer
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](cfg, list(model.parameters()))
    reference = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: [0.0, 0.0, 0] for name in reference}
    replaced = [name for name, m in model.named_modules() if isinstance(m, PartitionedModule)]
    target, first_distilled = batch["target"], built.cfg.task.distillation_from or 0

    def probabilities(logits: torch.Tensor) -> torch.Tensor:
        return (logits / temperature).softmax(-1)[target != 1]  # 1 is padding

    for update, levels_of_update in enumerate(levels_of_updates):
        adam.zero_grad()
        _, sample_size, _ = built.task.train_step(batch, model, built.criterion, adam, update)
        assert sample_size == batch["ntokens"], "a mini-batch counts once"
        adam.multiply_grads(1 / sample_size)
        built.task.optimizer_step(adam, model, update)

        soft_targets = None
        if weight > 0 and update >= first_distilled:
            set_dense_weights(stock, reference, replaced, 2)
            soft_targets = probabilities(stock(**batch["net_input"])[0]).detach()
        total = collections.defaultdict(float)
        for level in levels_of_update:

            def loss(network: torch.nn.Module, level: int = level, p: torch.Tensor | None = soft_targets) -> Any:
                own, _, _ = built.criterion(network, batch)
                if level == 1 and p is not None:
                    kl = (p * (p / probabilities(network(**batch["net_input"])[0])).log()).sum()
                    own = (1 - weight) * own + weight * temperature**2 * kl
                return own / batch["ntokens"]

            for name, gradient in dense_gradients(stock, reference, replaced, level, loss).items():
                total[name] += gradient
        trains_super = 2 in levels_of_update
        for name, gradient in total.items():
            adam_by_hand(
                reference, moments, name, gradient, cfg.lr[0] * (1.0 if trains_super else lr_coef), cfg.adam_eps
            )
    for name, parameter in model.named_parameters():
        if not name.endswith(NOISE):
            torch.testing.assert_close(
                parameter.detach(), reference[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


PHASES = (
    "--alternate --alternate-pattern 2:1 --super-only-updates 1 --core-only-from 6 --distillation-weight 0.5 "
    "--distillation-temperature 2 --alternate-lr-coef 0.5".split()
)
# The same networks by a pattern that changes, distillation that begins late, and dropout of the core's own.
CHANGES = (
    "--alternate --alternate-pattern 3:1@0,2:1@4,1:9@7 --core-only-from 6 --distillation-weight 0.5 "
    "--distillation-from 4 --alternate-lr-coef 0.5 --core-dropout 0.05".split()
)


@pytest.mark.parametrize(
    ("first_options", "options_again"),
    [(PHASES, PHASES), (PHASES, []), (CHANGES, CHANGES), (CHANGES, [])],
    ids=["the same command", "without its options", "changes, the same command", "changes, without its options"],
)
def test_resumed_within_a_pattern(
    build: Build,
    batch: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    first_options: list[str],
    options_again: list[str],
) -> None:
    """Through fairseq's trainer: stopped before the core update of 2 2 2 1 2 2 1 1, the same bits as without a stop.

    Without its options the run goes on with those that it remembers.
    """

    def trainer(options: list[str] = first_options) -> Trainer:
        built = build(*options, "--small-ratio", "0.25", "--dropout", "0.1")
        return Trainer(built.cfg, built.task, built.model, built.criterion)

    def trained(run: Trainer, until: int) -> None:
        for _ in range(run.get_num_updates(), until):
            run.train_step([batch])

    whole, stopped = trainer(), trainer()
    trained(whole, 8)
    trained(stopped, 3)
    stopped.consolidate_optimizer()  # as before every save (fairseq/checkpoint_utils.py:50)
    stopped.save_checkpoint(str(tmp_path / "3.pt"), {"train_iterator": {"epoch": 1}})
    resumed = trainer([*options_again, "--restore-file", str(tmp_path / "3.pt")])
    resumed.load_checkpoint(str(tmp_path / "3.pt"))
    assert resumed.get_num_updates() == 3
    assert "was trained with" not in caplog.text
    trained(resumed, 8)
    for run in (whole, resumed):
        run.consolidate_optimizer()
    state, again = whole.state_dict(), resumed.state_dict()
    for name, value in state["model"].items():
        assert torch.equal(value, again["model"][name]), name
    adam, adam_again = state["last_optimizer_state"]["state"], again["last_optimizer_state"]["state"]
    assert {entry["step"] for entry in adam.values()} == {5, 8}, "of the extension and of the core"
    for number, entry in adam.items():
        for key, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(adam_again[number][key])), (number, key)


def test_a_slimmable_update_is_logged_like_a_validation(build: Build, batch: Any) -> None:
    built = build("--scheme", "slimmable", "--small-ratio", "0.25", "--dropout", "0")
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    metrics.reset()
    validated = trainer.valid_step(batch)
    with metrics.aggregate("train") as train:
        trainer.train_step([batch])
    trained = train.get_smoothed_values()
    names = {"loss", "nll_loss", "core_loss", "core_nll_loss"}
    assert names <= set(validated)
    for name in names:
        assert float(trained[name]) == pytest.approx(float(validated[name]), rel=1e-4)
    assert [name for name in trained if "gnorm" in name] == ["gnorm"]
    assert trained["wpb"] == batch["ntokens"]
    metrics.reset()


def test_norms_of_a_network_that_does_not_run_stay(build: Build, batch: Any) -> None:
    """In the super-network's phase; where legacy_ddp has filled in zeros, decay would move the core's own norms."""
    options = "--scheme slimmable --super-only-updates 2 --core-decoder-layers 1 --private-norms all --weight-decay 0.1"
    built = build(*options.split())
    own = dict(built.model.named_parameters())["decoder.layers.1.final_layer_norm.core.weight"]
    before = own.detach().clone()
    adam = optim.OPTIMIZER_REGISTRY["adam"](built.cfg.optimizer, list(built.model.parameters()))
    for number in range(3):
        assert torch.equal(own, before) == (number < 3)
        built.task.train_step(batch, built.model, built.criterion, adam, number)
        for p in built.model.parameters():
            if p.requires_grad and p.grad is None:  # legacy_distributed_data_parallel.py:137
                p.grad = torch.zeros_like(p)
        built.task.optimizer_step(adam, built.model, number)
        adam.zero_grad()
    assert not torch.equal(own, before), "the core has run, and the test could not fail"


@pytest.mark.parametrize("wrapper", [FP16Optimizer, MemoryEfficientFP16Optimizer])
def test_slimmable_in_half_precision(build: Build, batch: Any, wrapper: Any) -> None:
    """Two backward passes before one step; gradients are those of float32, to half precision."""
    options = "--scheme slimmable --small-ratio 0.25 --dropout 0 --distillation-weight 0.5 --fp16-init-scale 4".split()
    built = build(*options, "--fp16-no-flatten-grads")
    model, parameters = built.model, list(built.model.parameters())

    def gradients(optimizer: Any, loss_scale: int) -> dict[str, torch.Tensor]:
        optimizer.zero_grad()
        built.task.train_step(batch, model, built.criterion, optimizer, 0)
        return {name: p.grad.float() / loss_scale for name, p in model.named_parameters()}

    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"]
    expected = gradients(adam(built.cfg.optimizer, parameters), 1)
    adam(built.cfg.optimizer, parameters).zero_grad()
    model.half()
    built.cfg.common.fp16 = True
    optimizer = wrapper.build_optimizer(built.cfg, parameters)
    for name, gradient in gradients(optimizer, 4).items():
        if not name.endswith(NOISE):
            assert (gradient - expected[name]).norm() < 0.03 * expected[name].norm(), name
    optimizer.multiply_grads(1 / batch["ntokens"])
    optimizer.clip_grad_norm(1.0)
    before = model.encoder.layers[0].fc1.extension_weight.detach().clone()
    built.task.optimizer_step(optimizer, model, 0)
    assert not torch.equal(before, model.encoder.layers[0].fc1.extension_weight)


def _worker(rank: int, built: SimpleNamespace, batches: list[Any], backend: str, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    if backend == "pytorch_ddp":
        model = DistributedDataParallel(built.model, find_unused_parameters=True)
    else:
        model = LegacyDistributedDataParallel(built.model, torch.distributed.group.WORLD)
    wrapped = ModuleProxyWrapper(model)
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    for update, of_update in enumerate(batches):
        adam.zero_grad()
        built.task.train_step(of_update[rank], wrapped, built.criterion, adam, update)
        adam.all_reduce_grads(wrapped)
        torch.save({n: p.grad for n, p in built.model.named_parameters()}, folder / f"{rank}_{update}.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that used CUDA cannot be forked")
@pytest.mark.parametrize(
    ("scheme", "backend"), [("slimmable", "pytorch_ddp"), ("slimmable", "legacy_ddp"), ("alternate", "pytorch_ddp")]
)
def test_two_workers(build: Build, scheme: str, backend: str, tmp_path: Path) -> None:
    """Gradients of every network are means over the workers, though a pass of the core uses no extension."""
    options = ["--scheme", scheme, "--small-ratio", "0.25", "--dropout", "0", "--distillation-weight", "0.5"]
    built = build(*options)
    built.task.load_dataset("valid")
    data = built.task.dataset("valid")
    batches = [[data.collater([data[i] for i in range(n, n + 6)]) for n in (start, start + 6)] for start in (0, 12)]
    context = torch.multiprocessing.get_context("fork")
    workers = [context.Process(target=_worker, args=(rank, built, batches, backend, tmp_path)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]

    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    for update, of_update in enumerate(batches):
        adam.zero_grad()
        for batch in of_update:
            built.task.train_step(batch, built.model, built.criterion, adam, update)
        for rank in (0, 1):
            reduced = torch.load(tmp_path / f"{rank}_{update}.pt")
            for name, p in built.model.named_parameters():
                if p.grad is not None and not name.endswith(NOISE):
                    torch.testing.assert_close(reduced[name], p.grad / 2, rtol=1e-4, atol=1e-4)
