"""The criteria's mathematics: by hand, and the paper's identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_ats.architectures.layer_types import layer_type
from fairseq_ats.partition.names import CRITERIA
from fairseq_ats.theory.criteria import GradientProducts, sums_of_products

square = st.floats(1e-6, 1e6)


def test_by_hand() -> None:
    """∇f(x) = (3, 4 | 12), ∇f(x̃) = (6, 0 | -): norms 13, 5 and 6, inner product 18."""
    inside = sums_of_products(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 0.0]))
    outside = sums_of_products(torch.tensor([[12.0]]), None)
    assert inside.dtype == torch.float64
    products = GradientProducts(*inside.tolist()) + GradientProducts(*outside.tolist())
    assert products == GradientProducts(169.0, 25.0, 36.0, 18.0)
    expected = {"c_norm": 13 / 5, "c_sim": 5 / 6, "c_align": 30 / 18, "alpha_t": 0.5, "q_t": 13 / 5 * 30 / 18}
    assert {name: getattr(products, name) for name in CRITERIA} == pytest.approx(expected, rel=1e-15)
    assert products.cosine == pytest.approx(18 / 30)


def test_without_mask_and_perturbation_all_are_one() -> None:
    """p = 1 is plain SGD (section 3.3)."""
    products = GradientProducts(4.0, 4.0, 4.0, 4.0)
    assert [getattr(products, name) for name in CRITERIA] == [1.0] * 5


@given(masked=square, perturbed=square, rest=square, cosine=st.floats(1e-3, 1.0), scale=square)
def test_identities(masked: float, perturbed: float, rest: float, cosine: float, scale: float) -> None:
    """Bounds, the paper's second form of q_t (below Theorem 1), and independence of a common scale."""
    products = GradientProducts(masked + rest, masked, perturbed, cosine * math.sqrt(masked * perturbed))
    assert products.c_norm >= 1
    assert products.c_align >= 1 - 1e-12
    assert 0 < products.alpha_t <= 1
    second_form = math.sqrt(products.full) / (products.alpha_t * math.sqrt(products.perturbed))
    assert products.q_t == pytest.approx(second_form, rel=1e-12)
    scaled = GradientProducts(*(scale * v for v in (products.full, masked, perturbed, products.inner)))
    for name in CRITERIA:
        assert getattr(scaled, name) == pytest.approx(getattr(products, name), rel=1e-9)


@pytest.mark.parametrize("inner", [-3.0, 0.0])
def test_no_alignment(inner: float) -> None:
    """No finite c_align bounds it, although a negative quotient would be below any bound."""
    products = GradientProducts(10.0, 9.0, 4.0, inner)
    assert products.is_misaligned == (inner < 0)
    assert products.c_align == products.q_t == math.inf
    assert products.alpha_t == inner / 4


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        (GradientProducts(4.0, 0.0, 1.0, 0.0), {"c_norm": math.inf, "c_sim": 0.0, "c_align": math.nan, "alpha_t": 0.0}),
        (GradientProducts(4.0, 1.0, 0.0, 0.0), {"c_norm": 2.0, "c_sim": math.inf, "alpha_t": math.nan}),
        (GradientProducts(0.0, 0.0, 0.0, 0.0), dict.fromkeys(CRITERIA, math.nan)),
    ],
)
def test_zero_gradients(products: GradientProducts, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert getattr(products, name) == pytest.approx(value, nan_ok=True), name
    assert math.isnan(products.q_t)


vectors = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)


@given(gradient=vectors, change=vectors, size=st.floats(0, 0.499), smoothness=st.floats(0.01, 100))
def test_lemma_2_with_its_tight_constants(
    gradient: list[float], change: list[float], size: float, smoothness: float
) -> None:
    """Assumption 3 with L = ``smoothness`` gives c_sim < 2 and c_align < 2/√3; the change is as large as L allows."""
    g, h = torch.tensor(gradient).double(), torch.tensor(change).double()
    if float(g.norm()) < 1e-3 or float(h.norm()) < 1e-3:
        return
    other = g + h * size * g.norm() / h.norm()
    moved = float((other - g).norm()) / smoothness
    larger = float(torch.maximum(g.norm(), other.norm()))
    assert moved / larger < 1 / (2 * smoothness), "Assumption 3"
    for one, two in ((g, other), (other, g)):
        found = GradientProducts(*map(float, (one @ one, one @ one, two @ two, one @ two, moved**2)))
        assert found.grad_change < 0.5
        assert found.grad_change == pytest.approx(float((one - two).norm()) / larger, rel=1e-6, abs=1e-6)
        assert found.perturbation == pytest.approx(moved / larger, rel=1e-12)
        assert found.c_sim < 2
        assert found.c_align <= 2 / math.sqrt(3)
        if moved > 0:
            assert found.smoothness == pytest.approx(smoothness, rel=1e-6, abs=1e-6 * larger / moved)


def test_the_constants_are_reached() -> None:
    """Vectors with Δ_t just under ½: parallel for c_sim, at a right angle to their difference for c_align."""
    nearly = 0.5 - 1e-9
    parallel = GradientProducts(1.0, 1.0, (1 - nearly) ** 2, 1 - nearly)
    assert parallel.c_sim == pytest.approx(2, rel=1e-8)
    aslant = GradientProducts(1.0, 1.0, 1 - nearly**2, 1 - nearly**2)
    assert (aslant.grad_change, aslant.c_align) == pytest.approx((0.5, 2 / math.sqrt(3)), rel=1e-8)


def test_the_printed_constant_of_lemma_2_does_not_hold() -> None:
    """f = x²/2 at x = 1, so L = 1, and δx = −0.49: (4) holds, and c_sim is above √10/2."""
    products = GradientProducts(1.0, 1.0, 0.51**2, 0.51, 0.49**2)
    assert products.perturbation < 1 / 2
    assert products.smoothness == pytest.approx(1.0)
    assert products.c_sim == pytest.approx(1.96, abs=1e-3)
    assert products.c_sim > math.sqrt(10) / 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_says_so(value: float) -> None:
    assert GradientProducts(1.0, 1.0, 1.0, 1.0).is_finite
    assert not GradientProducts(1.0, 1.0, value, 1.0).is_finite


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.embed_tokens.weight", "encoder_embedding"),
        ("decoder.embed_positions.weight", "decoder_embedding"),
        ("encoder.layernorm_embedding.weight", "encoder_norm"),
        ("encoder.layers.0.self_attn.q_proj.core_u", "encoder_self_attn_qk"),
        ("decoder.layers.5.self_attn.out_proj.bias", "decoder_self_attn_vo"),
        ("decoder.layers.5.encoder_attn.k_proj.extension_weight", "decoder_cross_attn_qk"),
        ("decoder.layers.5.encoder_attn.v_proj.weight", "decoder_cross_attn_vo"),
        ("decoder.layers.1.encoder_attn_layer_norm.bias", "decoder_norm"),
        ("encoder.layers.1.fc1.core_weight", "encoder_fc1"),
        ("decoder.layers.1.fc2.extension_weight", "decoder_fc2"),
        ("decoder.output_projection.weight", "decoder_output_projection"),
        ("decoder.adaptive_softmax.tail.0.0.weight", "decoder_output_projection"),
        ("decoder.project_in_dim.weight", "decoder_other"),
    ],
)
def test_layer_types(name: str, expected: str) -> None:
    assert layer_type(name) == expected
