"""``--criteria-interval``: the numbers are right, and the training is as without it."""

from __future__ import annotations

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim, utils
from fairseq.data import iterators
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from fairseq_ats.architectures.layer_types import layer_type
from fairseq_ats.modules.levels import use_level
from fairseq_ats.options.checks import host as option_checks
from fairseq_ats.partition.names import CRITERIA, PERTURBATION, criterion_name
from fairseq_ats.partition.tags import holds
from fairseq_ats.schemes.points import NetworkPoint
from fairseq_ats.theory.criteria import GradientProducts
from fairseq_ats.theory.monitor import CriteriaMonitor
from fairseq_ats.training.out_of_memory import OutOfMemoryGuard
from tests.support.plain_gradients import by_name, gradients_at
from tests.support.plain_meprop import PlainMeProp

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = ("--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25")
# From a W that is not zero, where x̃ would be x.
LOW_RANK = (
    "--partitioned-linear-module-name",
    "PartitionedRankLinear",
    "--small-ratio",
    "0.25",
    "--init-super",
    "stock",
)
DROPOUTS = ("--dropout", "0.3", "--attention-dropout", "0.2", "--activation-dropout", "0.2")
MONITOR = "fairseq_ats.theory.monitor"
WORKERS = "fairseq_ats.host.workers"


@pytest.fixture(autouse=True)
def _own_metrics() -> Iterator[None]:
    metrics.reset()
    yield
    metrics.reset()


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq's softmax is in float32 whatever the model's precision."""
    monkeypatch.setattr("fairseq.utils.log_softmax", lambda x, dim, onnx_trace=False: x.log_softmax(dim))


def micro_batches(task: Any, *slices: slice) -> list[dict[str, Any]]:
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return [dataset.collater([dataset[i] for i in range(40)[part]]) for part in slices]


def measured_update(built: SimpleNamespace, batches: list[dict[str, Any]], update_num: int = 0) -> dict[str, float]:
    """One update through the task's hooks, as fairseq's trainer calls them; what the monitor logged, unrounded."""
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    for batch in batches:
        built.task.train_step(batch, built.model, built.criterion, adam, update_num)
    built.task.optimizer_step(adam, built.model, update_num)
    with metrics.aggregate() as logged:
        built.task.criteria.log()
    return {name: meter.val for name, meter in logged.items()}


def gradients_by_backward(model: torch.nn.Module, built: SimpleNamespace, batches: list) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        built.criterion(model, batch)[0].backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def without_extension(model: torch.nn.Module) -> torch.nn.Module:
    """x̃: a copy whose extension is zero."""
    masked = copy.deepcopy(model)
    for name, p in masked.named_parameters():
        if "extension_" in name:
            p.data.zero_()
    return masked


def by_hand(gradient: dict[str, torch.Tensor], perturbed: dict[str, torch.Tensor]) -> dict[str, float]:
    """The issue's five formulas, for all parameters and for each layer type, from whole gradients."""
    groups = defaultdict(list)
    for name in gradient:
        groups[None].append(name)
        groups[layer_type(name)].append(name)
    result = {}
    for group, names in groups.items():
        mask = torch.cat([torch.full_like(gradient[n].flatten(), "extension_" not in n) for n in names])
        g = torch.cat([gradient[n].flatten() for n in names])
        h = torch.cat([perturbed[n].flatten() for n in names])
        g_norm, pg, ph, inner = g.norm(), (mask * g).norm(), (mask * h).norm(), (mask * g) @ (mask * h)
        c_norm, c_sim, c_align = g_norm / pg, pg / ph, pg * ph / inner
        if inner <= 0:
            c_align = torch.tensor(math.inf)
        values = (c_norm, c_sim, c_align, min(1, inner / ph**2), c_norm * max(c_sim, c_align))
        result |= {criterion_name(n, 1, group): float(v) for n, v in zip(CRITERIA, values, strict=True)}
    return result


@pytest.mark.parametrize("update_num", [0, 1], ids=["super update", "core update"])
@pytest.mark.parametrize("options", [SMALL_WIDTH, LOW_RANK], ids=["small width", "low rank"])
def test_against_brute_force(build: Build, in_float64: None, options: tuple[str, ...], update_num: int) -> None:
    """Two micro-batches of different sizes. ∇f(x̃) by two ways that the monitor does not go: the core's own forward
    pass, and a copy whose extension is zero; 1e-10 relative."""
    built = build(*options, "--alternate", "--criteria-interval", "1", "--criteria-by-layer-type", "--dropout", "0")
    built.model.double()
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
    reference = copy.deepcopy(built.model)
    gradient = gradients_by_backward(reference, built, batches)
    with use_level(reference, 1):
        perturbed = gradients_by_backward(reference, built, batches)
    zeroed = gradients_by_backward(without_extension(reference), built, batches)
    actual = measured_update(built, batches, update_num)
    for of_core in (perturbed, zeroed):
        expected = by_hand(gradient, of_core)
        assert set(actual) == set(expected)
        for name, value in expected.items():
            # Key biases have no gradient but rounding: they leave the types of queries and keys at 1e-10, too.
            assert actual[name] == pytest.approx(value, rel=1e-10), name
    assert actual["c_norm"] > 1.01
    assert actual["c_align"] > 1.01
    assert actual["c_norm_decoder_norm"] == 1.0, "a layer type inside the mask"


@pytest.mark.parametrize("options", [SMALL_WIDTH, LOW_RANK], ids=["small width", "low rank"])
def test_every_level_against_brute_force(build: Build, in_float64: None, options: tuple[str, ...]) -> None:
    """Of three networks, by the forward pass of each itself; 1e-10 relative."""
    built = build(*options, "--small-ratio", "0.25,0.5", "--alternate", "--criteria-interval", "1", "--dropout", "0")
    built.model.double()
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
    reference = copy.deepcopy(built.model)
    gradient = gradients_by_backward(reference, built, batches)
    expected = {}
    for level in (1, 2):
        with use_level(reference, level):
            perturbed = gradients_by_backward(reference, built, batches)
        masks = {name: float(holds(p, level)) for name, p in built.model.named_parameters()}
        g, h, pg = (
            torch.cat([gradients[name].flatten() * factor[name] for name in gradients])
            for gradients, factor in ((gradient, dict.fromkeys(masks, 1.0)), (perturbed, masks), (gradient, masks))
        )
        inner = float(pg @ h)
        assert inner > 0
        c_norm, c_sim = float(g.norm() / pg.norm()), float(pg.norm() / h.norm())
        c_align = float(pg.norm() * h.norm()) / inner
        values = (c_norm, c_sim, c_align, min(1.0, inner / float(h @ h)), c_norm * max(c_sim, c_align))
        expected |= {criterion_name(name, level): value for name, value in zip(CRITERIA, values, strict=True)}
    assert measured_update(built, batches) == pytest.approx(expected, rel=1e-10)
    assert expected["c_norm"] > expected["level2_c_norm"] > 1.0


PAIRS = {
    "weights": '--scheme dropout --scheme-args {"keep_prob":0.5,"unit":"weight"}',
    "neurons, inverted": '--scheme dropout --scheme-args {"keep_prob":0.5,"scale":"inverted"}',
    "neurons, in standard training": "--criteria-of dropout",
    "a layer": "--scheme layerwise",
    "a layer without its norms": "--scheme layerwise --freeze norm",
}


@pytest.mark.parametrize("options", PAIRS.values(), ids=PAIRS)
def test_any_pair_against_brute_force(build: Build, in_float64: None, options: str) -> None:
    """Of whole gradients of the mean loss, taken on copies; 1e-10 relative."""
    built = build(*SMALL_WIDTH, *options.split(), "--criteria-interval", "1", "--dropout", "0")
    model = built.model.double()
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
    size = sum(batch["ntokens"] for batch in batches)
    x = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    watched = built.task.watched
    (pair,) = watched.comparisons(watched.update(0))
    scales = by_name(model, getattr(pair.point, "scales", {}))
    s = {name: scales.get(name, torch.ones(()).double()).expand(p.shape) for name, p in x.items()}
    frozen = "norm" if "--freeze" in options else "no such name"
    p = {n: torch.as_tensor(pair.mask.of(parameters[n])).expand(s[n].shape) & (frozen not in n) for n in s}
    at_x = gradients_at(model, built.criterion, batches)
    perturbed = gradients_at(model, built.criterion, batches, lambda name, value: s[name] * value)

    def vector(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([value.flatten() for value in values.values()])

    g, h, mask, scale = vector(at_x) / size, vector(perturbed) / size, vector(p), vector(s)
    h = scale * h
    pg, ph, moved = mask * g, mask * h, ((scale - 1) * vector(x)).norm()
    inner, larger, change = pg @ ph, max(pg.norm(), ph.norm()), (pg - ph).norm()
    assert inner > 0
    expected = {
        "c_norm": g.norm() / pg.norm(),
        "c_sim": pg.norm() / ph.norm(),
        "c_align": pg.norm() * ph.norm() / inner,
        "alpha_t": min(1, inner / ph.norm() ** 2),
        "q_t": g.norm() / pg.norm() * max(pg.norm() / ph.norm(), pg.norm() * ph.norm() / inner),
        "cosine": inner / (pg.norm() * ph.norm()),
        "grad_change": change / larger,
        "perturbation": moved / larger,
        "smoothness": change / moved,
    }
    if "layerwise" in options:
        del expected["smoothness"]  # of no perturbation
    actual = measured_update(built, batches)
    assert actual == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-10)
    assert expected["c_norm"] > 1.01
    assert (expected["grad_change"] > 0.1) == ("layerwise" not in options)


@pytest.mark.parametrize(
    ("scheme", "arguments"),
    [
        ("meprop", '{"kind": "exact", "ratio": 0.1}'),
        ("meprop", '{"kind": "layer", "ratio": 0.3}'),
        ("extragradient", '{"step": 0.001}'),
    ],
    ids=["exact meProp", "meProp by layer", "extragradient"],
)
def test_pairs_that_follow_from_a_gradient(
    build: Build, in_float64: None, monkeypatch: pytest.MonkeyPatch, scheme: str, arguments: str
) -> None:
    """x̃ = x and the largest elements; another backward pass; a step ahead. The gradients are sums
    here, which a trainer would divide; 1e-10 relative."""
    options = ["--scheme", scheme, "--scheme-args", arguments, "--criteria-interval", "1", "--dropout", "0"]
    built = build(*SMALL_WIDTH, *options)
    model = built.model.double()
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
    reference = copy.deepcopy(model)
    g, mask, moved = gradients_at(model, built.criterion, batches), torch.tensor(True), torch.tensor(0.0)
    flat = torch.cat([value.flatten() for value in g.values()])
    h = g
    if scheme == "extragradient":
        h = gradients_at(model, built.criterion, batches, lambda name, x: x - 0.001 * g[name])
        moved = 0.001 * flat.norm()
    elif "exact" in arguments:
        mask = flat.abs() >= flat.abs().sort(descending=True).values[math.ceil(0.1 * len(flat)) - 1]
    actual = measured_update(built, batches)
    if "layer" in arguments:
        for name in [name for name, m in model.named_modules() if m in {*built.task.scheme.parts.linears}]:
            m = reference.get_submodule(name)
            monkeypatch.setattr(m, "forward", lambda x, m=m: PlainMeProp.apply(x, m.weight, m.bias, "layer", 0.3))
        h = gradients_by_backward(reference, built, batches)
    pg, ph = mask * flat, mask * torch.cat([value.flatten() for value in h.values()])
    size = sum(batch["ntokens"] for batch in batches)
    inner, larger, change = pg @ ph, max(pg.norm(), ph.norm()), (pg - ph).norm()
    assert inner > 0
    expected = {
        "c_norm": flat.norm() / pg.norm(),
        "c_sim": pg.norm() / ph.norm(),
        "c_align": pg.norm() * ph.norm() / inner,
        "alpha_t": min(1, inner / ph.norm() ** 2),
        "cosine": inner / (pg.norm() * ph.norm()),
        "perturbation": size * moved / larger,
    }
    assert {name: actual[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-10
    )
    # The root of a difference, which is rounding where the gradients are the same.
    assert actual["grad_change"] == pytest.approx(float(change / larger), rel=1e-10, abs=1e-7)
    assert (actual["c_norm"] > 1.01) == ("exact" in arguments)
    assert (actual["grad_change"] > 0.01) == ("exact" not in arguments)


@pytest.mark.parametrize("options", [SMALL_WIDTH, LOW_RANK], ids=["small width", "low rank"])
def test_same_dropout_masks(build: Build, in_float64: None, options: tuple[str, ...]) -> None:
    """f is one function: the update's own masks at x and at x̃, neuron by neuron; 1e-10 relative."""
    found = {}
    for dropout in ("same", "different", "off"):
        built = build(*options, *DROPOUTS, "--criteria-interval", "1", "--criteria-dropout", dropout)
        built.model.double()
        batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
        reference = copy.deepcopy(built.model)
        torch.manual_seed(5)
        found[dropout] = measured_update(built, batches)

    reference.train()
    expected = {}
    for name, model in (("gradient", reference), ("perturbed", without_extension(reference))):
        torch.manual_seed(5)
        expected[name] = gradients_by_backward(model, built, batches)
    for name, p in built.model.named_parameters():
        assert torch.equal(p.grad, expected["gradient"][name]), f"{name}: not the update's own gradient"
    same = by_hand(**expected)
    reference.eval()
    off = by_hand(
        gradients_by_backward(reference, built, batches),
        gradients_by_backward(without_extension(reference), built, batches),
    )
    for name in CRITERIA:
        assert found["same"][name] == pytest.approx(same[name], rel=1e-10), name
        assert found["off"][name] == pytest.approx(off[name], rel=1e-10), name
    assert found["different"]["c_norm"] == found["same"]["c_norm"], "∇f(x) is the same"
    assert found["different"]["c_align"] > 1.01 * found["same"]["c_align"], "other masks are less aligned"


def test_two_workers_are_one_batch(build: Build, in_float64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are summed over workers, and not norms; a worker without a batch counts for nothing.

    The workers run one after the other in this process: the first tells what it hands to all-reduce.
    """
    options = (*SMALL_WIDTH, "--criteria-interval", "1", "--dropout", "0")
    built = build(*options)
    built.model.double()
    start = copy.deepcopy(built.model.state_dict())
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17))
    whole = measured_update(built, batches)

    def worker(batch: dict[str, Any], all_reduce: Callable, ignore: bool = False) -> dict[str, float]:
        built.model.load_state_dict(start)
        built.model.zero_grad()
        monkeypatch.setattr(f"{WORKERS}.distributed_utils.get_data_parallel_world_size", lambda: 2)
        monkeypatch.setattr(f"{WORKERS}.distributed_utils.get_data_parallel_rank", lambda: 0)
        monkeypatch.setattr(f"{WORKERS}.distributed_utils.all_reduce", all_reduce)
        with built.task.criteria.remembering(built.model, built.criterion, batch, 0, ignore):
            pass
        scheme = built.task.scheme
        built.task.criteria.measure(built.model, None, 0, scheme.whole, scheme.comparisons(scheme.update(0)))
        with metrics.aggregate() as logged:
            built.task.criteria.log()
        return {name: meter.val for name, meter in logged.items()}

    handed: list[torch.Tensor] = []
    alone = worker(batches[0], lambda tensor, group: handed.append(tensor.clone()))
    assert len(handed) == 2 * len(list(built.model.parameters())) - sum("ext" in n for n in start)
    others = iter(handed)
    both = worker(batches[1], lambda tensor, group: tensor.add_(next(others)))
    assert both == pytest.approx(whole, rel=1e-10)
    assert alone["c_align"] != pytest.approx(whole["c_align"], rel=1e-3)

    others = iter(handed)
    with_dummy = worker(batches[1], lambda tensor, group: tensor.add_(next(others)), ignore=True)
    assert with_dummy == pytest.approx(alone, rel=1e-10)


def train(build: Build, options: tuple[str, ...], updates: int) -> SimpleNamespace:
    """Updates through fairseq's own trainer; everything that a monitor could disturb, after each of them."""
    metrics.reset()
    built = build(*options, "--max-tokens", "100")
    trainer = Trainer(built.cfg, built.task, built.model, built.criterion)
    epoch = trainer.get_train_iterator(1).next_epoch_itr(shuffle=True)
    batches = iterators.GroupedIterator(epoch, built.cfg.optimization.update_freq[0])
    passes = [0]
    built.model.encoder.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    history = []
    for _ in range(updates):
        samples = next(batches)
        before = passes[0]
        with metrics.aggregate("train_inner"):
            trainer.train_step(samples)
        history.append(
            SimpleNamespace(
                ids=[s["id"].tolist() for s in samples],
                gradients=[None if p.grad is None else p.grad.clone() for p in built.model.parameters()],
                needed=[p.requires_grad for p in built.model.parameters()],
                rng=utils.get_rng_state(),
                log={k: v for k, v in metrics.get_smoothed_values("train_inner").items() if k not in TIMES},
                passes=passes[0] - before,
            )
        )
        metrics.reset_meters("train_inner")
    return SimpleNamespace(trainer=trainer, built=built, history=history)


TIMES = ("wps", "ups", "train_wall", "wall")


@pytest.mark.parametrize(
    "options",
    [
        (*SMALL_WIDTH, "--alternate", "--update-freq", "2", "--clip-norm", "0.5"),
        (*LOW_RANK, *DROPOUTS, "--alternate", "--criteria-dropout", "different"),
        (*SMALL_WIDTH, "--encoder-layerdrop", "0.2", "--criteria-dropout", "off"),
        (*LOW_RANK, "--alternate", "--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"),
        (*SMALL_WIDTH, "--autocast", "bfloat16"),
        (*SMALL_WIDTH, *PAIRS["neurons, inverted"].split(), "--freeze", "embed"),
    ],
    ids=["accumulate, clip", "low rank, different masks", "standard, off, layerdrop", "fp16", "autocast", "dropout"],
)
def test_training_is_as_without_it(build: Build, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    """Bit for bit, after each update: data, gradients, random state, log; and at the end all that is saved."""
    monkeypatch.setattr(option_checks, "trains_on_cpu", lambda cfg: False)  # for fp16
    updates, interval = 3, 2
    without_criteria = [o for o in options if o not in ("--criteria-dropout", "different", "off")]
    plain = train(build, tuple(without_criteria), updates)
    watched = train(build, (*options, "--criteria-interval", str(interval)), updates)
    for number, (expected, actual) in enumerate(zip(plain.history, watched.history, strict=True)):
        assert actual.ids == expected.ids
        assert actual.needed == expected.needed
        for one, other in zip(expected.gradients, actual.gradients, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)
        assert torch.equal(actual.rng["torch_rng_state"], expected.rng["torch_rng_state"])
        criteria = {name: actual.log.pop(name) for name in CRITERIA}
        assert all(math.isfinite(value) and value != 0 for value in criteria.values()), criteria
        for name in PERTURBATION:
            actual.log.pop(name, None)
        assert actual.log == expected.log
        # The cost: two more passes, in measured updates only.
        extra = 2 * len(actual.ids) if number % interval == 0 else 0
        assert actual.passes == expected.passes + extra

    for run in (plain, watched):
        run.trainer.consolidate_optimizer()
    states = [run.trainer.state_dict() for run in (plain, watched)]
    assert states[0]["model"].keys() == states[1]["model"].keys()
    for name, value in states[0]["model"].items():
        assert torch.equal(states[1]["model"][name], value), name
    moments = [state["last_optimizer_state"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for index, of_parameter in moments[0].items():
        for key, value in of_parameter.items():
            other = moments[1][index][key]
            assert torch.equal(other, value) if torch.is_tensor(value) else other == value
    buffers = [list(run.built.model.named_buffers()) for run in (plain, watched)]
    for (name, one), (_, other) in zip(*buffers, strict=True):
        assert torch.equal(one, other), name
    modes = [[module.training for module in run.built.model.modules()] for run in (plain, watched)]
    assert modes[0] == modes[1]
    levels = [module.level for module in watched.built.model.modules() if hasattr(module, "level")]
    assert set(levels) == {2}


def test_an_abandoned_attempt_is_no_part_of_the_update(build: Build) -> None:
    """After an overflow fairseq clears the gradients and gives the same update number another mini-batch."""
    options = (*SMALL_WIDTH, "--criteria-interval", "1", "--dropout", "0")
    built = build(*options)
    start = copy.deepcopy(built.model.state_dict())
    first, second = micro_batches(built.task, slice(0, 5), slice(5, 17))
    expected = measured_update(built, [second])
    built.model.load_state_dict(start)
    built.model.zero_grad()
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    built.task.train_step(first, built.model, built.criterion, adam, 0)
    built.model.zero_grad()
    assert measured_update(built, [second]) == expected


def test_a_batch_for_which_memory_is_short_is_no_part_of_the_update(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three micro-batches the second fails, and the gradients of the first are lost with it."""
    built = build(*SMALL_WIDTH, "--criteria-interval", "1", "--dropout", "0")
    start = copy.deepcopy(built.model.state_dict())
    batches = micro_batches(built.task, slice(0, 5), slice(5, 17), slice(17, 30))
    expected = measured_update(built, batches[2:])
    built.model.load_state_dict(start)
    built.model.zero_grad()
    built.task.out_of_memory_guard = OutOfMemoryGuard(2, reduces_afterwards=True)
    whole = type(built.criterion).forward

    def forward(criterion: Any, model: Any, sample: Any, reduce: bool = True) -> Any:
        if sample is batches[1]:
            raise RuntimeError("out of memory")
        return whole(criterion, model, sample, reduce)

    monkeypatch.setattr(type(built.criterion), "forward", forward)
    assert measured_update(built, batches) == expected
    built.model.zero_grad()
    metrics.reset()
    assert measured_update(built, batches[:2]) == {}, "no micro-batch is left: nothing to say"


def test_nothing_is_repeated_in_a_training_without_it() -> None:
    """A resumed run has the meters of the run that was monitored."""
    metrics.log_scalar("c_norm", 3.0)
    monitor = CriteriaMonitor(0, layer_type)
    monitor.measure(torch.nn.Linear(1, 1), None, 1, NetworkPoint(2), ())
    with metrics.aggregate() as logged:
        monitor.log()
    assert not dict(logged)


def test_log_between_measurements() -> None:
    """The last value, and the mean of several in one interval."""
    monitor = CriteriaMonitor(2, layer_type)

    def update(values: dict[str, float]) -> dict[str, float]:
        monitor._measured, monitor._updated = values, True
        with metrics.aggregate("train_inner"):
            monitor.log()
        return dict(metrics.get_smoothed_values("train_inner"))

    assert update({"c_norm": 3.0, "q_t": math.inf}) == {"c_norm": 3.0, "q_t": math.inf}
    assert update({}) == {"c_norm": 3.0, "q_t": math.inf}
    assert update({"c_norm": 5.0, "q_t": 2.0}) == {"c_norm": 4.0, "q_t": math.inf}
    metrics.reset_meters("train_inner")
    stats = update({})
    assert stats == {"c_norm": 5.0, "q_t": 2.0}
    with metrics.aggregate("valid", new_root=True) as valid:
        monitor.log()
    assert not dict(valid), "nothing of it in a validation"


def test_warnings_are_rare(caplog: pytest.LogCaptureFixture) -> None:
    monitor = CriteriaMonitor(1, layer_type)
    against, broken = GradientProducts(10.0, 9.0, 4.0, -3.0), GradientProducts(10.0, math.nan, 4.0, 1.0)
    with caplog.at_level(logging.WARNING, logger=MONITOR):
        for update_num in range(100):
            monitor._warn(against, update_num, 1)
        assert len(caplog.records) == 7  # 1, 2, 4, ..., 64
        assert "point away from each other (cosine -0.5, alpha_t -0.75)" in caplog.records[0].message
        monitor._warn(GradientProducts(10.0, 9.0, 4.0, 3.0), 100, 1)
        assert len(caplog.records) == 7
        monitor._warn(against, 100, 2)
        assert "gradients of level 2 and super-network" in caplog.records[-1].message, "each level is counted alone"
        monitor._warn(broken, 100, 2)
        assert "update 100: gradients of the level 2 or the super-network are not finite" in caplog.records[-1].message
