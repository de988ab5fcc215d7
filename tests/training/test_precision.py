"""--autocast: products in bfloat16, weights and what is saved in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import optim

from tests.support import instrumented
from tests.support.command_line import train_command
from tests.support.updates import check_in_step

Build = Callable[..., SimpleNamespace]


def train(built: SimpleNamespace, batch: dict[str, Any], updates: int) -> list[float]:
    """Losses per token of a few updates through the task."""
    adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, list(built.model.parameters()))
    losses = []
    for number in range(updates):
        adam.zero_grad()
        loss, size, _ = built.task.train_step(batch, built.model, built.criterion, adam, number)
        losses.append(loss.item() / size)
        adam.multiply_grads(1 / size)
        built.task.optimizer_step(adam, built.model, number)
    return losses


def test_autocast_follows_float32(build: Build, batch: Any, module_name: str) -> None:
    """20 updates: losses to 2 %, and weights no farther apart than a tenth of the way that they went."""
    options = (
        "--alternate",
        "--dropout",
        "0",
        "--small-ratio",
        "0.25",
        "--partitioned-linear-module-name",
        module_name,
    )
    plain, lower = build(*options), build(*options, "--autocast", "bfloat16")
    start = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    dtypes = set()
    lower.model.encoder.layers[0].fc1.register_forward_hook(lambda m, i, output: dtypes.add(output.dtype))
    expected, actual = train(plain, batch, 20), train(lower, batch, 20)
    assert dtypes == {torch.bfloat16}
    assert actual != expected
    assert actual == pytest.approx(expected, rel=0.02)
    assert expected[-1] < 0.9 * expected[0]

    moved = apart = 0.0
    for (name, p), q in zip(plain.model.named_parameters(), lower.model.parameters(), strict=True):
        assert q.dtype == torch.float32, name
        if name.endswith("k_proj.bias") or name.endswith("k_proj.core_bias"):
            continue  # its gradient is rounding alone
        moved += (p - start[name]).double().square().sum().item()
        apart += (p - q).double().square().sum().item()
    assert apart**0.5 < 0.1 * moved**0.5


def test_validation_stays_in_float32(build: Build, batch: Any) -> None:
    plain, lower = build(), build("--autocast", "bfloat16")
    expected = plain.task.valid_step(batch, plain.model, plain.criterion)[0]
    assert torch.equal(lower.task.valid_step(batch, lower.model, lower.criterion)[0], expected)


FP16 = ["--fp16-init-scale", "4", "--clip-norm", "0.1"]


@pytest.mark.parametrize(
    ("options", "common", "updates"),
    [
        (["--autocast", "bfloat16"], {}, [1, 2, 3]),
        ([], {"bf16": True}, [1, 2, 3]),
        ([], {"bf16": True, "memory_efficient_bf16": True}, [1, 2, 3]),
        (["--fp16", "--fp16-no-flatten-grads", *FP16], {}, [1, 1, 2]),
        (["--memory-efficient-fp16", *FP16], {}, [1, 1, 2]),
        (["--amp", *FP16], {}, [1, 2, 2]),  # fairseq's train_step calls itself to try again
    ],
    ids=["autocast", "bf16", "memory-efficient bf16", "fp16", "memory-efficient fp16", "amp"],
)
def test_core_updates_of_real_runs(
    toy_data: Path, tmp_path: Path, options: list[str], common: dict[str, bool], updates: list[int]
) -> None:
    """fairseq's trainer and optimizers; with loss scaling, the first core update overflows and is made again."""
    # A learning rate large enough to move every parameter in half precision.
    command = train_command(toy_data, tmp_path / "run", 3, "--alternate", "--small-ratio", "0.25", *options)
    command += ["--disable-validation", "--no-save", "--weight-decay", "0.1", "--lr", "0.03"]
    changes = [partial(instrumented.record_updates, tmp_path / "records"), instrumented.take_this_for_a_gpu]
    changes += [partial(instrumented.set_common, **common)] if common else []
    changes += [partial(instrumented.overflow, 1)] if FP16[0] in options else []
    process = instrumented.start(command, tmp_path / "log", *changes)
    assert instrumented.finish(process) == [0], (tmp_path / "log").read_text()[-2000:]
    check_in_step([instrumented.recorded(tmp_path / "records")[:3]], updates)


@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_amp_unscales_gradients_once(build: Build, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled by a power of two and unscaled, with an epsilon that gradients of another size would not move against."""
    monkeypatch.setattr("torch.cuda.amp.GradScaler", partial(torch.amp.GradScaler, "cpu"))
    results = []
    for wrapper in (lambda adam, cfg: adam, lambda adam, cfg: optim.AMPOptimizer(cfg, None, adam)):
        built = build("--alternate", "--dropout", "0", "--small-ratio", "0.25", "--adam-eps", "1e-3")
        parameters = list(built.model.parameters())
        adam = optim.OPTIMIZER_REGISTRY["adam_for_partitioned_model"](built.cfg.optimizer, parameters)
        optimizer = wrapper(adam, built.cfg)
        for number in range(3):
            optimizer.zero_grad()
            built.task.train_step(batch, built.model, built.criterion, optimizer, number)
            optimizer.multiply_grads(1 / 64)
            optimizer.clip_grad_norm(0)
            built.task.optimizer_step(optimizer, built.model, number)
        results.append(parameters)
    assert all(torch.equal(scaled, plain) for plain, scaled in zip(*results, strict=True))


@pytest.mark.parametrize("other", ["fp16", "bf16", "amp"])
def test_one_kind_of_lower_precision(build: Build, other: str) -> None:
    with pytest.raises(ValueError, match=f"--autocast is bfloat16 and --{other} is another way"):
        build("--autocast", "bfloat16", f"--{other}")


@pytest.mark.parametrize("option", ["--checkpoint-activations", "--offload-activations"])
def test_recomputed_activations_are_refused(build: Build, option: str) -> None:
    """fairseq would compute them again in float32: gradients of another forward pass than the loss."""
    with pytest.raises(ValueError, match="--autocast is bfloat16 and --checkpoint-activations"):
        build("--autocast", "bfloat16", option)


def test_unknown_precision(parse: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--autocast", "float8")
    assert "argument --autocast: invalid choice: 'float8'" in capsys.readouterr().err
