"""``--scheme mast``: against closed forms on quadratics, and against updates by hand on a Transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.trainer import Trainer
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.modules import PartitionedLinear
from fairseq_ats.options.checks.mast import mast_problems
from fairseq_ats.options.run_options import settle_
from fairseq_ats.options.values import Options
from fairseq_ats.schemes.arguments import parsed
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.mast import Mast
from fairseq_ats.schemes.points import Point, UnitsPoint
from tests.support.plain_gradients import by_name, gradients_at, softmax_in_float64
from tests.support.resumed import check_resumed
from tests.support.scheme_updates import check_updates

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = "--partitioned-linear-module-name PartitionedLinear --small-ratio 0.25 --dropout 0".split()
# Of f = ½ xᵀAx − bᵀx.
D = 6
ROOT = torch.randn(D, D, generator=torch.Generator().manual_seed(2)).double()
A = ROOT @ ROOT.T / D + torch.eye(D).double()
B = torch.arange(1.0, D + 1).double()


class Quadratic:
    """A scheme on f, with the gradient of f at its points."""

    def __init__(self, **arguments: Any) -> None:
        self.model = PartitionedLinear.from_linear(nn.Linear(D, 1, bias=False).double(), 0.5, dim=0)
        self.x = self.model.core_weight
        self.x.data = torch.linspace(-1, 1, D).double()[None]
        self.scheme = Mast(unit="weight", **arguments)
        self.scheme.max_level = 1
        self.scheme.attach(ModelParts({"x": self.x}, {"x": self.x}, [], [], [], []), Draws(1))

    def take_gradients(self, point: Point) -> None:
        with point.of(self.model):
            s = point.gradient_scale(self.x)
            self.x.grad = s * (self.x.detach() @ A - B)

    def step(self, number: int, lr: float) -> None:
        update = self.scheme.update(number)
        self.take_gradients(update.points[0])
        self.scheme.before_step(update, self.take_gradients)
        self.x.data -= lr * self.x.grad


@pytest.mark.parametrize("sketch", ["bernoulli", "rand-k"])
def test_the_gradient_is_that_of_the_mean_loss(sketch: str) -> None:
    """∇f_D by its closed form, with a shift; the mean over 1,000 sketches ± 5 standard deviations."""
    problem = Quadratic(sketch=sketch, keep_prob=0.5, shift="start")
    problem.scheme.update(0)
    v, x = problem.x.detach()[0].clone(), torch.linspace(2, -1, D).double()
    problem.x.data = x[None].clone()
    seen = []
    for number in range(1000):
        problem.take_gradients(problem.scheme.update(number).points[0])
        seen.append(problem.x.grad[0].clone())
    # E[S A S] = A ⊙ E[s sᵀ]: 1/q on the diagonal, and off it 1, or d(k−1) / (k(d−1)) with k = 3.
    off = {"bernoulli": 1.0, "rand-k": D * 2 / (3 * (D - 1))}[sketch]
    moment = torch.full((D, D), off).double().fill_diagonal_(2.0)
    expected = (A * moment) @ (x - v) + A @ v - B
    samples = torch.stack(seen)
    assert ((samples.mean(0) - expected).abs() < 5 * samples.std(0) / 1000**0.5).all()
    if sketch == "bernoulli":  # f_D = f + ½ (1/q − 1) Σ A_jj z_j²
        torch.testing.assert_close(expected, A @ x - B + (1 / 0.5 - 1) * A.diagonal() * (x - v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["l-svrg", "page"])
def test_variance_reduction_converges(method: str) -> None:
    """To the minimiser of the mean over the N sketches, at a constant rate; without it the error stays."""
    problem = Quadratic(keep_prob=0.5, variance_reduction=method, sketches=4, refresh=0.25)
    sketches = [problem.scheme._fixed(n).scales[problem.x][0] for n in range(4)]
    matrices = [s[:, None] * A * s for s in sketches]
    solution = torch.linalg.solve(sum(matrices) / 4, sum(sketches) * B / 4)
    lr = 1 / (6 * max(float(torch.linalg.matrix_norm(m, 2)) for m in matrices))
    for number in range(800):
        problem.step(number, lr)
    assert float((problem.x[0].detach() - solution).norm() / solution.norm()) < 2e-5

    plain = Quadratic(keep_prob=0.5)
    solution = torch.linalg.solve(A + A.diagonal().diag(), B)
    for number in range(400):
        plain.step(number, lr)
    assert float((plain.x[0].detach() - solution).norm() / solution.norm()) > 1e-2


BY_HAND = {
    "neurons": '{"keep_prob": 0.6}',
    "weights, from the start": '{"keep_prob": 0.5, "unit": "weight", "shift": "start"}',
    "rand-k": '{"sketch": "rand-k", "keep_prob": 0.3, "shift": "start"}',
    "permutation": '{"sketch": "permutation", "batches": 2}',
}


@pytest.mark.parametrize("arguments", BY_HAND.values(), ids=BY_HAND)
def test_updates_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    """Adam of all of x by (1/M) Σ Sᵢᵀ ∇fᵢ(v + Sᵢ(x − v)), two micro-batches, in float64."""
    softmax_in_float64(monkeypatch)
    built = build(*SMALL_WIDTH, "--scheme", "mast", "--scheme-args", arguments, "--update-freq", "2")
    model, scheme = built.model.double(), built.task.scheme
    start = {n: p.detach().clone() * (scheme.shift == "start") for n, p in model.named_parameters()}
    kept = []

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        total = {name: torch.zeros_like(x) for name, x in values.items()}
        for of in (0, 1):
            (point,) = scheme.points_of(scheme.update(number), of)
            assert isinstance(point, UnitsPoint) == (scheme.shift == "zero")
            s = dict.fromkeys(values, torch.ones(()).double()) | by_name(model, point.reference.scales)
            kept.append(s)
            there = {name: start[name] + s[name] * (x - start[name]) for name, x in values.items()}
            for name, g in gradients_at(model, built.criterion, [batch], lambda n, _, t=there: t[n]).items():
                total[name] += s[name] * g / (2 * batch["ntokens"])
        return total, {name: torch.tensor(True) for name in values}

    check_updates(built, [batch, batch], by_hand, count=2)
    name = "encoder.layers.0.fc1.extension_weight"
    assert not torch.equal(kept[0][name], kept[1][name])
    assert not torch.equal(kept[0][name], kept[2][name])


@pytest.mark.parametrize("method", ["l-svrg", "page"])
def test_variance_reduction_by_hand(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Its estimate in each of 4 updates, in float64; some refresh, and some do not."""
    softmax_in_float64(monkeypatch)
    arguments = f'{{"keep_prob": 0.5, "variance_reduction": "{method}", "sketches": 2, "refresh": 0.5}}'
    built = build(*SMALL_WIDTH, "--scheme", "mast", "--scheme-args", arguments)
    model, scheme = built.model.double(), built.task.scheme
    past: dict[str, Any] = {}
    refreshed = []

    def at(index: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        s = dict.fromkeys(values, torch.ones(()).double()) | by_name(model, scheme._fixed(index).scales)
        found = gradients_at(model, built.criterion, [batch], lambda name, _: s[name] * values[name])
        return {name: s[name] * g / batch["ntokens"] for name, g in found.items()}

    def by_hand(number: int, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        drawn = torch.rand((), generator=scheme.draws.generator(number, "refresh"))
        refreshes = not past or bool(drawn < 0.5)
        refreshed.append(refreshes)
        ours, index = dict(values), scheme._chosen(number)
        first, second = at(0, ours), at(1, ours)
        mean = {name: (first[name] + second[name]) / 2 for name in ours}
        h = mean
        if past and not (refreshes and method == "page"):
            here, there = (first, second)[index], at(index, past["x"])
            h = {name: here[name] - there[name] + past["h"][name] for name in ours}
        if refreshes or method == "page":
            past.update(x=ours, h=h if method == "page" else mean)
        return h, {name: torch.tensor(True) for name in ours}

    check_updates(built, [batch], by_hand, count=4)
    assert set(refreshed[1:]) == {True, False}


def test_a_run_is_resumed_without_a_file(build: Build, batch: Any, tmp_path: Path) -> None:
    """Bit for bit: the shift and what variance reduction keeps are in the checkpoint. Another run's is refused."""
    arguments = '{"shift": "start", "variance_reduction": "page", "sketches": 2, "refresh": 0.3}'
    options = [*SMALL_WIDTH, "--scheme", "mast", "--scheme-args", arguments]

    path = tmp_path / "2.pt"
    check_resumed(build, options, batch, path, stop=2, end=4)
    resumed = build(*options, "--restore-file", str(path))
    resumed.model.double()  # fairseq moves the model after its state is there
    resumed.task.scheme.update(2)
    assert {v.dtype for kept in resumed.task.scheme._kept.values() for v in kept.values()} == {torch.float64}

    state = torch.load(path, weights_only=True)
    kept = state["task_state"]["scheme"]["state"]
    for name in [name for name in kept if name.startswith("shift:")]:
        del kept[name]
    torch.save(state, path)
    with pytest.raises(ValueError, match="not trained with these arguments of --scheme mast: no shift in it"):
        build(*options, "--restore-file", str(path))


@pytest.mark.parametrize("method", ["l-svrg", "page"])
def test_parameters_that_are_no_longer_frozen(build: Build, batch: Any, tmp_path: Path, method: str) -> None:
    """They have no estimate to go on from, so that the run begins a new one."""
    arguments = f'{{"variance_reduction": "{method}", "sketches": 2, "refresh": 0.001}}'
    options = [*SMALL_WIDTH, "--scheme", "mast", "--scheme-args", arguments]
    path = tmp_path / "2.pt"
    frozen = build(*options, "--freeze", "encoder")
    run = Trainer(frozen.cfg, frozen.task, frozen.model, frozen.criterion)
    run.train_step([batch])
    run.consolidate_optimizer()
    run.save_checkpoint(str(path), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}})
    free = build(*options, "--freeze", "", "--restore-file", str(path))
    run = Trainer(free.cfg, free.task, free.model, free.criterion)
    run.load_checkpoint(str(path))
    before = free.model.encoder.layers[0].fc1.core_weight.detach().clone()
    run.train_step([batch])
    assert not torch.equal(before, free.model.encoder.layers[0].fc1.core_weight)


def test_at_the_start_every_sketch_is_the_pretrained_model(build: Build, batch: Any) -> None:
    """And the sparsified loss is that of a model whose weights are changed by hand, the same in each validation."""
    arguments = '{"shift": "start", "unit": "weight"}'
    built = build(*SMALL_WIDTH, "--scheme", "mast", "--scheme-args", arguments, "--perturbed-validation", "2")
    built.task.scheme.update(0)

    def losses() -> tuple[float, float]:
        output = built.task.valid_step(batch, built.model.eval(), built.criterion)[2]
        return float(output["loss"]), float(output["perturbed:loss"])

    own, sparsified = losses()
    assert sparsified == pytest.approx(2 * own, rel=1e-6)
    start = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = 0.0
    for point in built.task.scheme.validation_points(2):
        s = dict.fromkeys(start, torch.ones(())) | by_name(built.model, point.scales)
        values = {n: start[n] + s[n] * (p.detach() - start[n]) for n, p in built.model.named_parameters()}
        changed = build(*SMALL_WIDTH)
        changed.model.load_state_dict(built.model.state_dict() | values)
        expected += float(built.criterion(changed.model.eval(), batch)[0].detach())
    assert losses()[1] == pytest.approx(expected, rel=1e-5)
    assert losses() == losses()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"sketch": "permutation"}', "batches goes with sketch permutation, and is needed there"),
        ('{"batches": 2}', "batches goes with sketch permutation, and is needed there"),
        ('{"sketch": "permutation", "batches": 2, "keep_prob": 0.5}', "keep_prob is 1 / batches"),
        ('{"sketch": "permutation", "batches": 2, "variance_reduction": "page"}', "allowed: no permutation"),
        ('{"sketches": 3}', "sketches and refresh go with variance_reduction"),
    ],
)
def test_arguments_that_do_not_go_together(text: str, problem: str) -> None:
    given, found = parsed(Mast, text)
    assert found == []
    (message,) = Mast.problems(given)
    assert problem in message


def test_options_that_would_bias_it(parse: Callable[..., Any]) -> None:
    cfg = parse("--scheme", "mast", "--clip-norm", "0.5")
    cfg.task.scheme_args = '{"variance_reduction": "page"}'
    settle_(cfg.task)
    assert mast_problems(cfg.task, Options(cfg.task)) == [
        "--clip-norm is 0.5 and --scheme-args has variance_reduction page, which adds gradients that would be clipped "
        "one by one; allowed: 0"
    ]
    cfg.task.scheme_args = '{"sketch": "permutation", "batches": 3}'
    assert mast_problems(cfg.task, Options(cfg.task)) == [
        "--scheme-args has batches 3; allowed: 1, --update-freq times the number of workers"
    ]
