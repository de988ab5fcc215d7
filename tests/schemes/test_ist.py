"""``--scheme ist``: each worker trains a part of the neurons, and K workers are one worker with K micro-batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim
from fairseq.distributed import legacy_distributed_data_parallel as legacy_ddp
from torch import Tensor, nn

from fairseq_ats.host import workers as host_workers
from fairseq_ats.optim.unreduced import fit_buffer_, is_reduced, leave_unreduced
from fairseq_ats.schemes.draws import Draws
from tests.support.plain_gradients import by_name, gradients_at, softmax_in_float64
from tests.support.scheme_updates import check_updates
from tests.support.threads import Threads, in_threads

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = """--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --dropout 0 --encoder-layers 1
    --decoder-layers 1""".split()
TWO_PARTS = [*SMALL_WIDTH, *"--scheme ist --parts 2 --update-freq 2 --local-updates 2".split()]
SGD = "--momentum 0 --weight-decay 0 --lr 0.05".split()


@pytest.fixture
def batches(build: Build, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Three mini-batches of other sizes, of sentences of other lengths; the loss is in float64."""
    softmax_in_float64(monkeypatch)
    task = build().task
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return [dataset.collater([dataset[i] for i in range(*some)]) for some in ((0, 4), (4, 12), (12, 15))]


def sgd(built: SimpleNamespace) -> Any:
    return optim.OPTIMIZER_REGISTRY["sgd_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))


def gradient_of_part(built: SimpleNamespace, update: int, part: int, values: dict[str, Tensor], batch: Any) -> Any:
    """s ⊙ ∇f(s ⊙ x) of one part on one mini-batch, summed over its tokens, and s, by name."""
    scales = by_name(built.model, built.task.scheme.update(update).points[part].reference.scales)
    s = {name: scales.get(name, torch.ones(()).double()) for name in values}
    found = gradients_at(built.model, built.criterion, [batch], lambda name, _: values[name] * s[name])
    return {name: g * s[name] for name, g in found.items()}, scales


def test_updates_by_hand(build: Build, batches: list[Any]) -> None:
    """What neurons own moves by their part's mean gradient, everything else by the mean over both parts; Adam."""
    built = build(*TWO_PARTS, "--weight-decay", "0.1")
    built.model.double()
    sizes = sum(batch["ntokens"] for batch in batches[:2])

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        sums = {name: torch.zeros_like(x) for name, x in values.items()}
        for part, batch in enumerate(batches[:2]):
            gradients, scales = gradient_of_part(built, number, part, values, batch)
            for name, g in gradients.items():
                sums[name] += g * (2 if name in scales else 1) / sizes
        return sums, {name: torch.tensor(True) for name in values}

    check_updates(built, batches[:2], by_hand)


def test_parts_of_a_round(build: Build) -> None:
    """They are disjoint and complete, the same in a round, and others in the next; twice what leaves neurons."""
    scheme = build(*TWO_PARTS).task.scheme
    leaves = {one.parameter: one.leaves for group in scheme._groups for one in group.owned}
    scales = [[point.scales for point in scheme.update(number).points] for number in range(4)]
    for first, second in scales:
        for p, s in first.items():
            assert set(s.unique().tolist()) <= {0, 2 if leaves[p] else 1}
            assert torch.equal((s > 0).int() + (second[p] > 0).int(), torch.ones_like(s).int())
    own = [torch.cat([s.flatten() for s in first.values()]) for first, _ in scales]
    assert torch.equal(own[0], own[1])
    assert torch.equal(own[2], own[3])
    assert not torch.equal(own[0], own[2])


def test_a_part_is_computed_alone(build: Build, batches: list[Any]) -> None:
    """NaN in the other part reaches neither loss nor gradients."""
    built = build(*TWO_PARTS)
    other = built.task.scheme.update(0).points[1].scales
    with torch.no_grad():
        for p, s in other.items():
            p[(s > 0).expand_as(p)] = torch.nan
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    loss, *_ = built.task.train_step(batches[0], built.model, built.criterion, adam, 0)
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in built.model.parameters())


def test_fixed_is_the_interleaving(build: Build, batches: list[Any]) -> None:
    """SGD: an update of both parts is a step of the first and then one of the second, which sees the first's."""
    options = [*TWO_PARTS, *SGD, "--shared-parameters", "fixed", "--scheme-args", '{"scale": "exact"}']
    built = build(*options, optimizer="sgd_for_partitioned_model")
    model = built.model.double()
    optimizer = sgd(built)
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    sizes = sum(batch["ntokens"] for batch in batches[:2])
    for number in range(3):
        for part, batch in enumerate(batches[:2]):
            gradients, scales = gradient_of_part(built, number, part, values, batch)
            assert max(float(s.max()) for s in scales.values()) == 1
            values |= {name: values[name] - 0.05 * 2 / sizes * gradients[name] for name in scales}
        optimizer.zero_grad()
        for batch in batches[:2]:
            built.task.train_step(batch, model, built.criterion, optimizer, number)
        optimizer.multiply_grads(1 / sizes)
        built.task.optimizer_step(optimizer, model, number)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), values[name], rtol=1e-12, atol=1e-14)


class Replica:
    """A worker's model, task and optimizer, and updates as fairseq's trainer and legacy_ddp make them."""

    def __init__(self, built: SimpleNamespace, workers: Any, shared: str, updates: int = 2) -> None:
        self.built, self.workers = built, workers
        scheme = built.task.scheme
        scheme.shared_parameters, scheme.local_updates = shared, updates
        scheme.attach(scheme.parts, Draws(7), workers)
        built.task._workers = workers
        built.model.double()
        self.optimizer = sgd(built)

    def update(self, number: int, batches: Sequence[Any], sizes: float) -> None:
        task, model = self.built.task, self.built.model
        self.optimizer.zero_grad()
        for batch in batches:
            task.train_step(batch, model, self.built.criterion, self.optimizer, number)
        for p in model.parameters():
            if p.grad is not None and is_reduced(p) and self.workers.count > 1:
                self.workers.add_up_(p.grad)
                p.grad /= self.workers.count
        self.optimizer.multiply_grads(self.workers.count / sizes)
        task.optimizer_step(self.optimizer, model, number)

    def state(self) -> dict[str, Tensor]:
        named = dict(self.built.model.named_parameters())
        momenta = {name: self.optimizer.optimizer.state[p].get("momentum_buffer") for name, p in named.items()}
        weights = {name: p.detach().clone() for name, p in named.items()}
        return weights | {f"{name} momentum": m.clone() for name, m in momenta.items() if m is not None}


def two_workers(build: Build, batches: list[Any], shared: str, updates: int, momentum: str = "0.9") -> list[Any]:
    """Of each of two workers: its states after each of 4 updates, and when it has the whole model."""
    options = [*TWO_PARTS, *SGD, "--momentum", momentum]
    built = [build(*options, optimizer="sgd_for_partitioned_model") for _ in range(2)]
    sizes = sum(batch["ntokens"] for batch in batches[:2])

    def work(workers: Threads) -> Any:
        replica = Replica(built[workers.rank], workers, shared, updates)
        states = []
        for number in range(4):
            replica.update(number, [batches[workers.rank]], sizes)
            states.append(replica.state())
        replica.built.task.scheme.make_whole()
        return states, replica.state()

    return in_threads(2, work)


def one_worker(build: Build, batches: list[Any], shared: str, updates: int, momentum: str = "0.9") -> list[Any]:
    options = [*TWO_PARTS, *SGD, "--momentum", momentum]
    replica = Replica(build(*options, optimizer="sgd_for_partitioned_model"), host_workers.ALONE, shared, updates)
    sizes = sum(batch["ntokens"] for batch in batches[:2])
    states = []
    for number in range(4):
        replica.update(number, batches[:2], sizes)
        states.append(replica.state())
    return states


def assert_same(states: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert states.keys() == expected.keys()
    for name, value in states.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shared", ["synchronous", "fixed"])
def test_two_workers_are_one(build: Build, batches: list[Any], shared: str) -> None:
    """In float64, with momentum, at the end of each round; rounds of 3 updates, the second cut short."""
    expected = one_worker(build, batches, shared, 3)
    for states, whole in two_workers(build, batches, shared, 3):
        assert_same(states[2], expected[2])
        assert_same(whole, expected[3])
        name = "encoder.layers.0.fc1.extension_weight"
        assert not torch.equal(states[1][name], expected[1][name]), "of the other worker"


def test_local_copies(build: Build, batches: list[Any]) -> None:
    """Rounds of one update with SGD are ``synchronous``; in longer ones the copies differ until they are averaged."""
    expected = one_worker(build, batches, "synchronous", 1, momentum="0")
    for states, _ in two_workers(build, batches, "local", 1, momentum="0"):
        assert_same(states[3], expected[3])
    (first, _), (second, _) = two_workers(build, batches, "local", 2)
    name = "decoder.layers.0.self_attn.v_proj.weight"
    assert not torch.equal(first[0][name], second[0][name])
    for update in (1, 3):
        assert all(torch.equal(value, second[update][name]) for name, value in first[update].items())


def test_an_exchange_within_a_round_changes_nothing(build: Build, batches: list[Any]) -> None:
    """As before a validation: the next exchange brings the same."""
    expected = one_worker(build, batches, "synchronous", 4)
    built = [build(*TWO_PARTS, *SGD, "--momentum", "0.9", optimizer="sgd_for_partitioned_model") for _ in range(2)]

    def work(workers: Threads) -> list[dict[str, Tensor]]:
        replica = Replica(built[workers.rank], workers, "synchronous", 4)
        states = []
        for number in range(4):
            replica.update(number, [batches[workers.rank]], sum(batch["ntokens"] for batch in batches[:2]))
            if number == 1:
                built[workers.rank].task.begin_valid_epoch(1, built[workers.rank].model)
                replica.optimizer.optimizer.consolidate_state_dict()  # as fairseq does before a save; again
            states.append(replica.state())
        return states

    for states in in_threads(2, work):
        assert_same(states[1], expected[1])
        assert_same(states[3], expected[3])


def test_only_owned_parts_travel(build: Build, batches: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the owned a worker sends its part once a round, weights and one moment; of the shared gradients alone."""
    logged: list[float] = []
    monkeypatch.setattr("fairseq.logging.metrics.log_scalar", lambda name, value, **_: logged.append(value))
    handed: list[tuple[int, int]] = []
    gathered = Threads.gathered
    monkeypatch.setattr(Threads, "gathered", lambda w, t: handed.append((w.rank, t.nbytes)) or gathered(w, t))
    built = build(*TWO_PARTS)
    owned = {one.parameter for group in built.task.scheme._groups for one in group.owned}
    of_owned = sum(8 * p.numel() for p in owned)
    shared = sum(8 * p.numel() for p in built.model.parameters()) - of_owned
    two_workers(build, batches, "synchronous", 2)
    assert sum(nbytes for rank, nbytes in handed if rank == 0) == 4 * shared + 2 * 2 * of_owned / 2
    assert sum(logged) == pytest.approx(2 * (4 * shared + 2 * of_owned) / 1e6)


def test_fairseq_leaves_an_experts_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that this rests on: fairseq/distributed/legacy_distributed_data_parallel.py:140."""
    line = inspect.getsource(legacy_ddp).split("\n")[139]
    assert line.strip() == 'if hasattr(param, "expert"):'
    monkeypatch.setattr(legacy_ddp.utils, "get_world_size", lambda group: 2)
    sizes: list[int] = []
    monkeypatch.setattr(legacy_ddp.utils, "all_reduce", lambda t, group: sizes.append(t.numel()) or t.mul_(10))
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    leave_unreduced([model[0].weight], 1.0)
    wrapped = legacy_ddp.LegacyDistributedDataParallel(model, process_group=object())
    model(torch.ones(1, 2)).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    fit_buffer_(wrapped)
    wrapped.all_reduce_grads()
    assert sum(sizes) == 3 + 3 + 1, "and no room for what is not reduced"
    for p, gradient in zip(model.parameters(), before, strict=True):
        factor = 1 if p is model[0].weight else 10 / 2
        assert torch.equal(p.grad, factor * gradient)


@pytest.mark.parametrize("unreduced", [(0, 1), (0, 1, 2, 3)], ids=["synchronous", "local"])
def test_one_norm_and_one_clip(build: Build, monkeypatch: pytest.MonkeyPatch, unreduced: tuple[int, ...]) -> None:
    """Of all gradients: those of other parts add up, those of the same parameters are averaged."""
    built = build(*TWO_PARTS)
    generator = torch.Generator().manual_seed(1)
    others = torch.tensor(7.0).double()
    summed: list[float] = []

    def add_up(workers: Any, tensor: Tensor) -> None:
        summed.append(float(tensor))
        tensor.add_(others)

    monkeypatch.setattr(host_workers.Workers, "add_up_", add_up)
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(4)]
    leave_unreduced([parameters[n] for n in unreduced[:2]], 1.0)
    leave_unreduced([parameters[n] for n in unreduced[2:]], 0.5)
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, parameters)
    for p in parameters:
        p.grad = torch.randn(3, generator=generator)
    gradients = [p.grad.double() for p in parameters]
    first, second = (sum(float(g.square().sum()) for g in some) for some in (gradients[:2], gradients[2:]))
    norm = (first + 7 + (second if len(unreduced) == 2 else second / 2)) ** 0.5
    assert float(adam.clip_grad_norm(0.5)) == pytest.approx(norm, rel=1e-6)
    for p, g in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(p.grad.double(), g * 0.5 / (norm + 1e-6), rtol=1e-6, atol=1e-8)


def test_before_a_crash_nobody_waits(build: Build, batches: list[Any]) -> None:
    """Within an update fairseq asks one worker alone for the whole (fairseq/trainer.py:870): it gets no exchange."""
    built = build(*TWO_PARTS, *SGD, optimizer="sgd_for_partitioned_model")
    scheme = built.task.scheme
    scheme._is_divided = True
    scheme.points_of(scheme.update(0), 0)
    scheme.make_whole()
    assert scheme._is_divided


def test_the_monitor_compares_the_first_part(build: Build) -> None:
    task = build(*TWO_PARTS, "--criteria-interval", "2").task
    update = task.scheme.update(0)
    (comparison,) = task.comparisons(update)
    assert comparison.point is update.points[0].reference
    selected = comparison.mask.selections
    assert selected.keys() == update.points[0].scales.keys()
    assert all(torch.equal(chosen, update.points[0].scales[p] > 0) for p, chosen in selected.items())


def test_more_parts_than_neurons(build: Build) -> None:
    with pytest.raises(ValueError, match=r"--parts is 9; allowed: 2 to 8, the number of neurons of \S+attn"):
        build(*SMALL_WIDTH, *"--scheme ist --parts 9 --update-freq 9".split())
