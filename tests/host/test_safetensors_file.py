"""Checkpoints as safetensors: the same values come back, and damage is told."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fairseq_ats.checkpoints.reading import read_checked, read_header
from fairseq_ats.host.safetensors_file import is_safetensors, save
from tests.support.checkpoints import differences

SMALL: dict[str, Any] = {"model": {"w": torch.tensor([1.0, 2.0])}, "optimizer_history": [{"num_updates": 3}]}


def test_every_value_comes_back(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    state = {
        "cfg": {"model": Namespace(arch="a", betas="(0.9, 0.98)", nothing=None), "task": {"lr": [0.1, 1e-9]}},
        "model": {
            "encoder.embed_tokens.weight": shared,
            "decoder.embed_tokens.weight": shared,
            "transposed": shared.t(),
            "part": shared[1:],
            "half": torch.randn(2).bfloat16(),
            "count": torch.tensor(7),
            "none": torch.empty(0, 3),
            "none.either": torch.empty(0, 3),
        },
        "optimizer_history": [{"num_updates": 3}],
        "last_optimizer_state": {"state": {0: {"step": 2, "exp_avg": torch.randn(2)}, 1: {}}, "param_groups": [{}]},
        "extra_state": {
            "best": float("inf"),
            "counts": np.array([[1, 2]]),
            "meters": [(1, "a", {"": 2.5})],
            "ä": "ß\0",
        },
    }
    save(state, tmp_path / "c.safetensors")
    found = read_checked(str(tmp_path / "c.safetensors"))
    assert found["cfg"]["model"] == state["cfg"]["model"]
    assert found["cfg"]["task"] == state["cfg"]["task"]
    assert not differences(found, state)
    assert found["model"]["decoder.embed_tokens.weight"] is found["model"]["encoder.embed_tokens.weight"]
    save(state, tmp_path / "c.pt")
    assert not differences(read_checked(str(tmp_path / "c.pt")), state)
    assert (is_safetensors(tmp_path / "c.safetensors"), is_safetensors(tmp_path / "c.pt")) == (True, False)


def test_other_tools_read_the_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save(SMALL | {"extra_state": {"ema": {"w": torch.zeros(2)}}}, tmp_path / "c.safetensors")
    found = load_file(tmp_path / "c.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {"w": [1, 2], "extra_state/ema/w": [0, 0]}


def test_every_flipped_bit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(SMALL, path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"c\.safetensors"):
            read_checked(str(path))
    for size in (0, 8, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            read_checked(str(path))
    path.write_bytes(whole)
    assert not differences(read_checked(str(path)), SMALL)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not a checkpoint: its header has no"):
        read_header(str(path))
    with pytest.raises(ValueError, match="or not a checkpoint"):
        read_checked(str(path))
    for state in ({"": "code", "of": 1}, {"": "tensor", "of": "v"}, {"": "namespace"}, [], {"model": {"w": 1}}):
        save_file({"w": torch.zeros(2)}, path, {"fairseq_ats.checkpoint": json.dumps(state)})
        with pytest.raises(ValueError, match=r"cannot be read|not a fairseq checkpoint"):
            read_header(str(path))


def test_what_it_cannot_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cannot hold /model/of, a set; allowed: a file of torch, \.pt"):
        save({"model": {"of": {1}}}, tmp_path / "c.safetensors")
    save(SMALL, tmp_path / "c.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for use in (lambda path: save(SMALL, path), lambda path: read_header(str(path))):
        with pytest.raises(ValueError, match="pip install safetensors"):
            use(tmp_path / "c.safetensors")
