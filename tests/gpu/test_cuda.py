"""What needs a card: the same numbers as on a CPU, and the same mask. ``scripts/gpu_check.sh`` runs these tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fairseq_ats.modules.levels import use_level
from tests.support import instrumented
from tests.support.command_line import train_command
from tests.support.updates import check_in_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]

OPTIONS = ["--alternate", "--small-ratio", "0.25", "--dropout", "0", "--weight-decay", "0.1"]
SHORT = ["--disable-validation", "--no-save"]
FP16 = ["--fp16-init-scale", "4", "--clip-norm", "0.1"]


def on_gpu(command: list[str]) -> list[str]:
    return [word for word in command if word != "--cpu"]


def recorded(command: list[str], folder: Path, *changes: instrumented.Change) -> list[dict[str, Any]]:
    """What the updates of a training were."""
    folder.mkdir()
    record = partial(instrumented.record_updates, folder / "records")
    process = instrumented.start(command, folder / "log", record, *changes)
    assert instrumented.finish(process) == [0], (folder / "log").read_text()[-3000:]
    return instrumented.recorded(folder / "records")


@pytest.mark.parametrize("module_name", ["PartitionedLinear", "PartitionedRankLinear"])
def test_the_updates_of_a_cpu(toy_data: Path, tmp_path: Path, module_name: str) -> None:
    """float32: four updates of both networks move weights and moments alike, and the fused Adam masks bit for bit."""
    options = [*OPTIONS, *SHORT, "--partitioned-linear-module-name", module_name]
    command = train_command(toy_data, tmp_path / "run", 4, *options)
    expected = recorded(command, tmp_path / "cpu")
    found = recorded(on_gpu(command), tmp_path / "gpu")
    check_in_step([found], [1, 2, 3, 4])
    for mine, theirs in zip(found, expected, strict=True):
        for name, tensors in theirs["moved"].items():
            if "k_proj" in name and "bias" in name:
                continue  # its gradient is rounding alone
            torch.testing.assert_close(mine["moved"][name]["exp_avg"], tensors["exp_avg"], rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(mine["moved"][name]["weight"], tensors["weight"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "common", "updates"),
    [
        (["--autocast", "bfloat16"], {}, [1, 2, 3]),
        ([], {"bf16": True}, [1, 2, 3]),
        ([], {"bf16": True, "memory_efficient_bf16": True}, [1, 2, 3]),
        (["--fp16", "--fp16-no-flatten-grads", *FP16], {}, [1, 1, 2]),
        (["--memory-efficient-fp16", *FP16], {}, [1, 1, 2]),
        (["--amp", *FP16], {}, [1, 2, 2]),
    ],
    ids=["autocast", "bf16", "memory-efficient bf16", "fp16", "memory-efficient fp16", "amp"],
)
def test_the_mask_in_half_precision(
    toy_data: Path, tmp_path: Path, options: list[str], common: dict[str, bool], updates: list[int]
) -> None:
    """Bit for bit; with loss scaling, the first core update overflows and is made again."""
    command = on_gpu(train_command(toy_data, tmp_path / "run", 3, *OPTIONS, *SHORT, "--lr", "0.03", *options))
    changes = [partial(instrumented.set_common, **common)] if common else []
    changes += [partial(instrumented.overflow, 1)] if FP16[0] in options else []
    check_in_step([recorded(command, tmp_path / "gpu", *changes)[:3]], updates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("narrow", [4, 8, 16, 64])
def test_attention_of_narrow_heads(dtype: torch.dtype, narrow: int) -> None:
    """Keys of ``narrow`` of 64 dimensions: PyTorch's kernel against the formula in float64."""
    torch.manual_seed(1)
    q, k = (torch.randn(2, 4, 9, narrow, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 4, 9, 64, device="cuda", dtype=dtype, requires_grad=True)
    mask = torch.zeros(2, 1, 1, 9, device="cuda", dtype=dtype)
    mask[1, :, :, 5:] = -torch.inf
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=64**-0.5)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    scores = exact[0] @ exact[1].transpose(-2, -1) * 64**-0.5 + mask.double()
    expected = scores.softmax(-1) @ exact[2]
    tolerance = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    direction = torch.randn_like(found)
    found.backward(direction)
    expected.backward(direction.double())
    for x, y in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.parametrize("module_name", ["PartitionedLinear", "PartitionedRankLinear"])
def test_networks_of_a_cpu(build: Callable[..., SimpleNamespace], batch: Any, module_name: str) -> None:
    """Losses of both networks without dropout, in evaluation and in training (whose attention has other kernels)."""
    built = build(*OPTIONS, "--partitioned-linear-module-name", module_name)
    with torch.no_grad():
        for parameter in built.model.parameters():  # a low-rank extension begins as zero
            parameter += 0.05 * torch.randn_like(parameter)
    losses = []
    for device in ("cpu", "cuda"):
        model, moved = built.model.to(device), to_device(batch, device)
        for level in (1, 2):
            with torch.no_grad(), use_level(model, level):
                losses.append(built.criterion(model.train(), moved)[0].item())
                losses.append(built.criterion(model.eval(), moved)[0].item())
    assert losses[4:] == pytest.approx(losses[:4], rel=1e-5)
    assert losses[0] != losses[2], "the networks are alike, and the test could not fail"


def to_device(value: Any, device: str) -> Any:
    if isinstance(value, dict):
        return {name: to_device(of_name, device) for name, of_name in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two cards are needed")
def test_two_cards_are_one_with_twice_the_batches(toy_data: Path, tmp_path: Path) -> None:
    """nccl, as ``fairseq-train`` starts it by itself where there are several cards."""
    weights = []
    for cards, frequency in (("0,1", "1"), ("0", "2")):
        folder = tmp_path / frequency
        options = [*OPTIONS, "--disable-validation", "--update-freq", frequency, "--ddp-backend", "legacy_ddp"]
        command = on_gpu(train_command(toy_data, folder, 4, *options))
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": cards}
        tool = Path(sys.executable).parent / command[0]
        done = subprocess.run([tool, *command[1:]], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        weights.append(torch.load(folder / "checkpoint_last.pt", map_location="cpu", weights_only=True)["model"])
    for name, value in weights[0].items():
        if not ("k_proj" in name and "bias" in name):
            torch.testing.assert_close(value, weights[1][name], rtol=1e-2, atol=1e-3)
