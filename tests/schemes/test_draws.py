"""Random numbers that depend on (seed, purpose, update, part) alone, and choices by magnitude."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.schemes.draws import Draws, largest

WHAT = st.tuples(st.integers(0, 2**31), st.sampled_from(["update", "validation"]), st.integers(0, 10**6), st.text())


@given(st.lists(WHAT, min_size=2, max_size=6, unique=True))
def test_draws_do_not_depend_on_their_order(asked: list[tuple[int, str, int, str]]) -> None:
    def drawn(seed: int, purpose: str, number: int, part: str) -> list[float]:
        return torch.rand(4, generator=Draws(seed, purpose).generator(number, part)).tolist()

    state = torch.get_rng_state()
    there = [drawn(*one) for one in asked]
    back = [drawn(*one) for one in reversed(asked)]
    assert there == back[::-1]
    assert len({tuple(one) for one in there}) == len(there)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(1, 30), st.floats(1e-9, 1), st.integers(0, 1000))
def test_at_least_one_is_kept(size: int, keep_prob: float, number: int) -> None:
    kept = Draws(1).kept(keep_prob, size, number, "here")
    assert kept.shape == (size,)
    assert kept.any()
    assert keep_prob < 1 or kept.all()


def test_kept_is_bernoulli() -> None:
    """20,000 draws: 0.3 ± 4 standard deviations."""
    share = Draws(1).kept(0.3, torch.Size((100, 200)), 5, "here").double().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 1000))
def test_parts_divide_everything(count: int, more: int, number: int) -> None:
    owners = Draws(1).divided(count, count + more, number, "here")
    sizes = torch.bincount(owners, minlength=count)
    assert owners.shape == (count + more,)
    assert sizes.shape == (count,)
    assert sizes.max() - sizes.min() <= 1


def test_parts_are_uniform_over_rounds() -> None:
    """7 elements in parts of 3, 2 and 2, 1,000 rounds: each element's share of each ± 4.5 standard deviations."""
    drawn = torch.stack([Draws(1).divided(3, 7, number, "here") for number in range(1000)])
    for part, size in enumerate((3, 2, 2)):
        shares = (drawn == part).double().mean(0)
        p = size / 7
        assert ((shares - p).abs() < 4.5 * (p * (1 - p) / 1000) ** 0.5).all()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_largest_by_sorting(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    tensors = {"a": torch.tensor(values[:cut]).float(), "b": torch.tensor(values[cut:]).float().view(-1, 1)}
    order = sorted(range(len(values)), key=lambda n: -abs(values[n]))  # stable
    chosen = largest(tensors, count)
    assert [chosen[name].shape for name in tensors] == [value.shape for value in tensors.values()]
    assert torch.cat([chosen["a"], chosen["b"].flatten()]).nonzero().flatten().tolist() == sorted(order[:count])
