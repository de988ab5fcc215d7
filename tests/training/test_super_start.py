"""Where the super-network of a new run starts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fairseq_ats.modules.levels import use_level

Build = Callable[..., SimpleNamespace]


def outputs(built: SimpleNamespace, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Logits of every network, from the core up."""
    model = built.model.eval()
    result = []
    for level in built.task.partition.levels:
        with use_level(model, level), torch.no_grad():
            result.append(model(**batch["net_input"])[0])
    return result


def stock_output(build: Build, batch: dict[str, Any]) -> torch.Tensor:
    stock = build("--dropout", "0", task="translation", optimizer="adam").model.eval()
    with torch.no_grad():
        return stock(**batch["net_input"])[0]


# Sums of a dozen products in float32, in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("scheme", ["alternate", "slimmable"])
@pytest.mark.parametrize("ratios", ["0.25", "0.1,0.25,0.4"])
def test_networks_that_are_trained_together_start_as_one(
    build: Build, batch: dict[str, Any], scheme: str, ratios: str
) -> None:
    built = build("--scheme", scheme, "--small-ratio", ratios)
    core, *others = outputs(built, batch)
    for output in others:
        torch.testing.assert_close(output, core, **CLOSE)
    assert not torch.allclose(core, stock_output(build, batch), atol=0.1), "it would be the stock model"


@pytest.mark.parametrize("options", [["--alternate", "--init-super", "stock"], ["--scheme", "standard"]])
def test_the_super_network_starts_as_the_stock_model(build: Build, batch: dict[str, Any], options: list[str]) -> None:
    core, super_network = outputs(build(*options, "--small-ratio", "0.25"), batch)
    torch.testing.assert_close(super_network, stock_output(build, batch), **CLOSE)
    assert not torch.allclose(core, super_network, atol=0.1)


def test_the_same_core_either_way(build: Build) -> None:
    cores = [
        {name: p for name, p in build(*options).model.named_parameters() if "extension" not in name}
        for options in (["--alternate"], ["--alternate", "--init-super", "stock"])
    ]
    assert cores[0].keys() == cores[1].keys()
    for name, value in cores[0].items():
        assert torch.equal(value, cores[1][name]), name


def test_all_that_starts_at_zero_has_a_gradient(build: Build, batch: dict[str, Any]) -> None:
    """Of the super-network; W first of all."""
    built = build("--alternate", "--small-ratio", "0.1,0.25", "--dropout", "0")
    zero = {name: p for name, p in built.model.named_parameters() if "extension" in name and not p.any()}
    assert {name.rsplit(".", 1)[1] for name in zero} == {"extension_weight", "extension_2_v"}
    loss, *_ = built.criterion(built.model, batch)
    loss.backward()
    for name, parameter in zero.items():
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--init-super", "core", "--partitioned-linear-module-name", "PartitionedLinear"],
            "--init-super is core and --partitioned-linear-module-name is PartitionedLinear; allowed",
        ),
        (["--init-super", "core", "--init-from", "x.pt"], "--init-super core and --init-from exclude each other"),
    ],
)
def test_refused(build: Build, options: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("--alternate", *options)
