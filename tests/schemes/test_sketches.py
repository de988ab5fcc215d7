"""Sketches: unbiased, with the second moment and the exact counts that they are said to have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.sketches import Sketches

DRAWS = 1500


def second_moment(kind: str, n: int) -> torch.Tensor:
    """E[s sᵀ] by counting. The diagonal of a permutation's E[s_i s_j] off it: both are in one part."""
    off, on = {
        "bernoulli": (1.0, 1 / 0.4),
        "rand-k": (n * (2 - 1) / (2 * (n - 1)), n / 2),  # k = 2
        # 5 coordinates in 3 parts, of 2, 2 and 1: 2 of the 10 pairs share a part, each part is drawn equally often.
        "permutation": (9 * (2 / 10) / 3, 3.0),
    }[kind]
    return torch.full((n, n), off).fill_diagonal_(on).double()


@pytest.mark.parametrize("kind", ["bernoulli", "rand-k", "permutation"])
def test_moments(kind: str) -> None:
    """E[S] = I and E[s sᵀ], each ± 5 standard deviations of a mean of 1,500; 5 coordinates."""
    sketches, n = Sketches(kind, 0.4, 3), 5
    drawn = []
    for number in range(DRAWS):
        kept, factor = sketches.drawn(Draws(1), n, number, number % 3, "here")
        drawn.append(kept.double() * factor)
    s = torch.stack(drawn)
    for samples, expected in ((s, torch.ones(n).double()), (s[:, :, None] * s[:, None, :], second_moment(kind, n))):
        error = 5 * samples.std(0) / DRAWS**0.5 + 1e-9
        assert ((samples.mean(0) - expected).abs() < error).all()


@given(st.integers(1, 30), st.integers(0, 10**6))
def test_counts_are_exact(size: int, number: int) -> None:
    kept, factor = Sketches("rand-k", 0.3, 1).drawn(Draws(1), size, number, 2, "here")
    assert int(kept.sum()) == max(1, round(0.3 * size))
    assert factor * int(kept.sum()) == pytest.approx(size)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_a_permutation_has_the_mean_one(parts: int, size: int, number: int) -> None:
    """Each coordinate is kept by exactly one micro-batch; parts differ in size by at most one."""
    drawn = [Sketches("permutation", 1.0, parts).drawn(Draws(1), size, number, b, "here") for b in range(parts)]
    assert torch.equal(sum(kept.double() * factor for kept, factor in drawn) / parts, torch.ones(size).double())
    sizes = [int(kept.sum()) for kept, _ in drawn]
    assert max(sizes) - min(sizes) <= 1


def test_micro_batches_have_sketches_of_their_own() -> None:
    first, second = (Sketches("bernoulli", 0.5, 1).drawn(Draws(1), 64, 7, batch, "here")[0] for batch in (0, 1))
    again = Sketches("bernoulli", 0.5, 1).drawn(Draws(1), 64, 7, 1, "here")[0]
    assert not torch.equal(first, second)
    assert torch.equal(second, again)
