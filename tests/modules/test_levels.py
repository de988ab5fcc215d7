"""Which network runs, and which update trains which."""

from __future__ import annotations

import pytest
import torch
from fairseq.distributed import LegacyDistributedDataParallel
from torch import nn

from fairseq_ats import PartitionedLinear, PartitionedRankLinear
from fairseq_ats.modules.levels import freeze_outside, set_level, use_level


def layer(max_level: int = 2) -> PartitionedLinear:
    return PartitionedLinear.from_linear(nn.Linear(4, 4), 0.5, dim=0, max_level=max_level)


def test_level_returns_on_exit_and_after_an_exception() -> None:
    model = nn.Sequential(layer(), layer())
    model[1].level = 1
    with use_level(model, 1):
        assert [m.level for m in model] == [1, 1]
        with use_level(model, 2):
            assert [m.level for m in model] == [2, 2]
    assert [m.level for m in model] == [2, 1]

    with pytest.raises(KeyError), use_level(model, 1):
        raise KeyError
    assert [m.level for m in model] == [2, 1]


def test_wrong_levels_change_nothing() -> None:
    model = nn.Sequential(layer(), layer(max_level=1))
    with pytest.raises(ValueError, match="level is 2; this model holds level"):
        set_level(model, 2)
    with pytest.raises(ValueError, match="level is 0"), use_level(model, 0):
        pass
    assert [m.level for m in model] == [2, 1]


def test_a_model_without_partitioned_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no partitioned layer"), use_level(nn.Linear(2, 2), 1):
        pass


def test_level_is_not_saved() -> None:
    assert not [key for key in layer().state_dict() if "level" in key]


def test_a_core_update_leaves_the_extension_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fairseq's own reduction, which fills in every missing gradient of what is not frozen."""
    monkeypatch.setattr("fairseq.distributed.utils.get_world_size", lambda group: 2)
    monkeypatch.setattr("fairseq.distributed.utils.all_reduce", lambda buffer, group: None)
    model = PartitionedRankLinear.from_linear(nn.Linear(6, 5), 0.2)
    workers = LegacyDistributedDataParallel(model, process_group=None)

    def update(level: int) -> torch.Tensor | None:
        model.zero_grad()
        with use_level(workers, level):
            workers(torch.ones(3, 6)).sum().backward()
        workers.all_reduce_grads()
        return model.extension_weight.grad

    assert torch.equal(update(1), torch.zeros(5, 6))
    for level in (2, 1, 2):
        freeze_outside(workers, (level,))
        assert (update(level) is None) == (level == 1)
        assert model.core_u.grad.abs().sum() > 0


def test_what_was_frozen_in_the_core_stays_frozen() -> None:
    model = layer()
    model.core_weight.requires_grad_(False)
    for level in (1, 2):
        freeze_outside(model, (level,))
        assert not model.core_weight.requires_grad
        assert model.extension_weight.requires_grad == (level == 2)
