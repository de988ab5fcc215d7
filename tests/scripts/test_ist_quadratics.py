"""``scripts.figures.ist_quadratics``: closed forms of independent subnets on a quadratic, and what the command says."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch

from fairseq_ats.schemes.draws import Draws
from scripts.figures.ist_quadratics import descent, draw, expected, limit, problems, relative, sketched


def test_the_mean_over_all_divisions() -> None:
    """E B by all 720 orders of 6 coordinates in 3 parts, in plain loops; and the mean of x goes where it should."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    L, b = root @ root.T + torch.eye(6).double(), torch.randn(6, generator=generator, dtype=torch.float64)
    sums = torch.zeros_like(L)
    for order in permutations(range(6)):
        for start in (0, 2, 4):
            C = torch.zeros(6, 6).double()
            for coordinate in order[start : start + 2]:
                C[coordinate, coordinate] = 3
            sums += C @ L @ C / 3
    assert torch.allclose(expected(L, 3), sums / 720, rtol=1e-12, atol=1e-12)
    mean = torch.zeros(6).double()
    for _ in range(3000):
        mean = mean - 0.01 * (sums / 720 @ mean - b)
    assert relative(mean, torch.linalg.solve(L, b)) == pytest.approx(limit(L, b, 3), rel=1e-9)


def test_a_sketch_by_its_definition() -> None:
    L, owners = torch.arange(16.0).view(4, 4), torch.tensor([1, 0, 1, 0])
    parts = [2 * (owners == part).float().diag() for part in (0, 1)]
    assert torch.equal(sketched(L, owners, 2), sum(C @ L @ C for C in parts) / 2)


def test_with_and_without_b(tmp_path: Path) -> None:
    """Without b the distance falls linearly; with b the mean stays at the closed form, 3 % after 600 steps."""
    (_, L, nothing), (_, _, b), _ = problems(1)
    stepsize = 0.1 / (4 * float(torch.linalg.eigvalsh(L)[-1]))
    without, with_b = (list(descent(L, one, stepsize, 600, Draws(1))) for one in (nothing, b))
    assert without[-1]["of_x"] < 1e-8
    assert without[-1]["of_x"] < 1e-3 * without[len(without) // 2]["of_x"]
    assert limit(L, nothing) == 0
    assert with_b[-1]["of_mean"] == pytest.approx(limit(L, b), rel=0.03)
    draw([{"run": "b", "stepsize": 0.1} | record for record in with_b], {"b": limit(L, b)}, tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 0
