"""The neurons of a ResNet: without some of them it is the network whose hidden channels are removed."""

from __future__ import annotations

import pytest
import torch

from fairseq_ats.architectures.resnet_parts import parts_of
from fairseq_ats.modules.levels import set_level
from fairseq_ats.schemes.dropout import neuron_point
from tests.support.plain_resnet import images, logits, partitioned, sliced, stock


@pytest.mark.parametrize("factor", [1.0, 2.0])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("ratio", "max_level"), [(0.5, 2), ((0.25, 0.7), 3), ((0.25, 0.7), 2), (0.5, 1)])
def test_masked_neurons_are_removed_channels(
    ratio: float | tuple[float, ...], max_level: int, norm: str, factor: float
) -> None:
    model = partitioned(ratio, max_level, norm=norm)
    ratios = ratio if isinstance(ratio, tuple) else (ratio,)
    weights = sliced(stock(norm=norm).state_dict(), (*ratios, 1.0)[max_level - 1])
    generator = torch.Generator().manual_seed(4)
    kept = []
    for group in parts_of(model).hidden:
        chosen = torch.rand(group.size, generator=generator) < 0.6
        chosen[0] = True
        kept.append((group, chosen))
        for name in list(weights):
            if name.startswith((f"{group.name}.conv1.", f"{group.name}.bn1.")) and weights[name].dim():
                weights[name] = weights[name][chosen]
        weights[f"{group.name}.conv2.weight"] = weights[f"{group.name}.conv2.weight"][:, chosen] * factor
    point, _ = neuron_point(max_level, kept, factor)
    set_level(model, max_level)
    with point.of(model):
        torch.testing.assert_close(model(images()), logits(weights, images()), rtol=1e-10, atol=1e-10)


def test_parts_are_the_whole_model() -> None:
    model = partitioned(0.5)
    parts = parts_of(model)
    assert [len(layer) for layer in parts.layers] == [
        6,
        *[len(list(b.parameters())) for b in model.basic_blocks().values()],
        3,
    ]
    assert {p for layer in parts.layers for p in layer} == set(model.parameters())
    assert sum(len(layer) for layer in parts.layers) == len(list(model.parameters()))
    assert set(parts.weights.values()) == {p for p in model.parameters() if p.ndim == 4}
    assert [(group.name, group.size) for group in parts.hidden] == [
        ("layer1.0", 8),
        ("layer2.0", 16),
        ("layer3.0", 32),
        ("layer4.0", 64),
    ]


def test_importance_is_of_channels() -> None:
    """The product of the norms of row and column, from the assembled weights."""
    model = partitioned(0.5, norm="none")
    group = parts_of(model).hidden[1]
    block = model.layer2[0]
    rows = torch.cat([block.conv1.weight.flatten(1), block.conv1.bias[:, None]], 1).norm(dim=1)
    columns = block.conv2.weight.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(group.importance(), (rows * columns).detach())
