"""Our attention against fairseq's, and the narrow core against the masked full network."""

from __future__ import annotations

import copy

import pytest
import torch
from fairseq.modules import MultiheadAttention
from torch.nn import functional as F

from fairseq_ats.modules import PartitionedLinear, PartitionedMultiheadAttention
from fairseq_ats.modules.levels import use_level

EMBED, HEADS, BATCH, SOURCE, TARGET = 12, 3, 4, 7, 5


def stock_attention(kind: str) -> MultiheadAttention:
    torch.manual_seed(1)
    attention = MultiheadAttention(
        EMBED,
        HEADS,
        self_attention=kind == "self",
        encoder_decoder_attention=kind == "cross",
    ).double()
    return attention.eval()


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    query = torch.randn(TARGET, BATCH, EMBED, dtype=torch.float64)
    key = query if kind == "self" else torch.randn(SOURCE, BATCH, EMBED, dtype=torch.float64)
    return query, key


def padding(length: int) -> torch.Tensor:
    mask = torch.zeros(BATCH, length, dtype=torch.bool)
    mask[0, -2:] = mask[2, -1:] = True
    return mask


@pytest.mark.parametrize("kind", ["self", "cross", "general"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("need_head_weights", [False, True])
def test_equals_stock(kind: str, padded: bool, need_weights: bool, need_head_weights: bool) -> None:
    stock = stock_attention(kind)
    ours = PartitionedMultiheadAttention.convert_(copy.deepcopy(stock))
    stock._set_skip_embed_dim_check()  # the stock path that returns weights of each head
    query, key = inputs(kind)
    options = {
        "key_padding_mask": padding(key.shape[0]) if padded else None,
        "attn_mask": torch.full((TARGET, TARGET), -torch.inf).double().triu(1) if kind == "self" else None,
        "static_kv": kind == "cross",
        "need_weights": need_weights,
        "need_head_weights": need_head_weights,
    }
    expected, expected_weights = stock(query, key, key, **options)
    output, weights = ours(query, key, key, **options)
    # The stock softmax is taken in float32 even here (fairseq/utils.py, softmax).
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    if expected_weights is None:
        assert weights is None
    else:
        torch.testing.assert_close(weights.double(), expected_weights.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_the_formula(need_weights: bool) -> None:
    """softmax(QKᵀ / √d)V of each head, written out, in float64."""
    attention = partitioned_attention("cross")
    query, key = inputs("cross")
    output, _ = attention(query, key, key, padding(SOURCE), need_weights=need_weights, static_kv=True)
    q, k, v = (attention.q_proj(query), attention.k_proj(key), attention.v_proj(key))
    size = EMBED // HEADS
    for b in range(BATCH):
        heads = []
        for h in range(HEADS):
            qh, kh, vh = (t[:, b, h * size : (h + 1) * size] for t in (q, k, v))
            scores = qh @ kh.T / size**0.5
            scores[:, padding(SOURCE)[b]] = -torch.inf
            heads.append(scores.softmax(-1) @ vh)
        expected = attention.out_proj(torch.cat(heads, -1))
        torch.testing.assert_close(output[:, b], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padded", [False, True])
def test_the_fused_kernel_agrees_with_the_products(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients in float64, each by its own way: the kernel is called once, or not at all."""
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: (calls.append(1), kernel(*a, **k))[1])
    attention = partitioned_attention("cross")
    query, key = inputs("cross")
    mask = padding(SOURCE) if padded else None

    def run() -> list[torch.Tensor]:
        attention.zero_grad()
        output, _ = attention(query, key, key, mask, need_weights=False, static_kv=True)
        output.square().sum().backward()
        return [output.detach(), *(p.grad.clone() for p in attention.parameters())]

    by_kernel = run()
    assert len(calls) == 1
    monkeypatch.setattr(PartitionedMultiheadAttention, "_has_fused_kernel", lambda self, q, v: False)
    by_products = run()
    assert len(calls) == 1
    for actual, expected in zip(by_kernel, by_products, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [1, 2])
def test_incremental_equals_full(level: int) -> None:
    attention = partitioned_attention("self")
    query, _ = inputs("self")
    causal = torch.full((TARGET, TARGET), -torch.inf).double().triu(1)
    with use_level(attention, level):
        expected, _ = attention(query, query, query, attn_mask=causal)
        state: dict = {}
        steps = [attention(q, q, q, incremental_state=state)[0] for q in query.split(1)]
    torch.testing.assert_close(torch.cat(steps), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("level", [1, 2])
def test_static_keys_are_computed_once(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = partitioned_attention("cross")
    query, key = inputs("cross")
    state: dict = {}
    with use_level(attention, level):
        expected, _ = attention(query, key, key, padding(SOURCE), static_kv=True)
        first, _ = attention(query[:1], key, key, padding(SOURCE), state, static_kv=True)
        monkeypatch.setattr(attention.k_proj, "forward", lambda x: pytest.fail("keys computed again"))
        rest = [attention(q, key, key, padding(SOURCE), state, static_kv=True)[0] for q in query[1:].split(1)]
    torch.testing.assert_close(torch.cat([first, *rest]), expected, rtol=1e-10, atol=1e-10)


def test_keys_stored_once_for_all_hypotheses() -> None:
    """``set_beam_size`` (BART): the cache holds one row for each sentence, the queries one for each hypothesis."""
    stock = stock_attention("cross")
    ours = PartitionedMultiheadAttention.convert_(copy.deepcopy(stock))
    query, key = inputs("cross")
    beam, query = 3, torch.randn(1, BATCH * 3, EMBED, dtype=torch.float64)
    key, mask = key.repeat_interleave(beam, 1), padding(SOURCE).repeat_interleave(beam, 0)
    outputs = []
    for attention in (stock, ours):
        attention.set_beam_size(beam)
        state: dict = {}
        for _ in range(2):
            output, _ = attention(query, key, key, mask, state, static_kv=True)
        assert attention._get_input_buffer(state)["prev_key"].shape[0] == BATCH
        outputs.append(output)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-6)  # stock softmax in float32


def test_teacher_forcing_after_a_beam_search() -> None:
    """The generator of --eval-bleu leaves its beam size behind; a training batch is no set of hypotheses."""
    attention = PartitionedMultiheadAttention.convert_(stock_attention("cross"))
    query, key = inputs("cross")
    expected, _ = attention(query, key, key, padding(SOURCE), static_kv=True)
    attention.set_beam_size(2)  # divides the batch: a wrong reduction would go unnoticed
    output, _ = attention(query, key, key, padding(SOURCE), static_kv=True)
    assert torch.equal(output, expected)


def test_a_boolean_mask_hides_where_it_is_true() -> None:
    attention = PartitionedMultiheadAttention.convert_(stock_attention("self"))
    query, _ = inputs("self")
    causal = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)
    expected, _ = attention(query, query, query, attn_mask=torch.zeros(TARGET, TARGET).masked_fill(causal, -torch.inf))
    output, _ = attention(query, query, query, attn_mask=causal)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("level", [1, 2])
def test_a_query_without_keys_attends_to_nothing(
    level: int, dtype: torch.dtype, dropout: float, need_weights: bool
) -> None:
    """The first positions of a target that is padded on the left: 0, as in stock training, and finite gradients."""
    attention = partitioned_attention("self").to(dtype).train()
    attention.dropout_module.p = dropout
    attention.out_proj.bias.data.normal_()
    query = inputs("self")[0].to(dtype).requires_grad_()
    pads = torch.zeros(BATCH, TARGET, dtype=torch.bool)
    pads[0, :2] = True
    causal = torch.full((TARGET, TARGET), -torch.inf, dtype=dtype).triu(1)
    with use_level(attention, level):
        output, weights = attention(query, query, query, pads, attn_mask=causal, need_weights=need_weights)
        output.square().sum().backward()
    assert torch.equal(output[:2, 0], attention.out_proj.bias.expand(2, -1))
    assert not torch.equal(output[2, 0], attention.out_proj.bias)
    assert not need_weights or (weights[0].sum(-1) > 0.5).tolist() == [False, False, True, True, True]
    for gradient in (query.grad, *(p.grad for p in attention.parameters() if p.grad is not None)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("source", [1, 15, 16, 17])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_and_their_gradients_on_both_sides_of_a_vector(source: int, masked: bool) -> None:
    """Rows shorter than a vector register are computed another way; the formula in float64 is the reference."""
    attention = PartitionedMultiheadAttention.convert_(stock_attention("general").float())
    q, k = torch.randn(BATCH, HEADS, TARGET, 4), torch.randn(BATCH, HEADS, source, 4)
    mask = torch.randn(TARGET, source) if masked else None
    of_weights = torch.randn(BATCH, HEADS, TARGET, source)

    def formula(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bhtd,bhsd->bhts", q, k) * attention.scaling + (0 if mask is None else mask.double())
        return scores.exp() / scores.exp().sum(-1, keepdim=True)

    expected, expected_gradients = torch.autograd.functional.vjp(formula, (q.double(), k.double()), of_weights.double())
    weights, gradients = torch.autograd.functional.vjp(lambda q, k: attention._weights(q, k, mask), (q, k), of_weights)

    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=0)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), reference, atol=1e-5, rtol=0)


def test_a_query_without_keys_as_in_stock_training() -> None:
    stock = stock_attention("self").train()
    ours = PartitionedMultiheadAttention.convert_(copy.deepcopy(stock))
    query, _ = inputs("self")
    pads = torch.zeros(BATCH, TARGET, dtype=torch.bool)
    pads[0, :2] = pads[1] = True
    causal = torch.full((TARGET, TARGET), -torch.inf).double().triu(1)
    expected, _ = stock(query, query, query, pads, attn_mask=causal, need_weights=False)
    for need_weights in (False, True):  # through the kernel, and through the products
        output, _ = ours(query, query, query, pads, attn_mask=causal, need_weights=need_weights)
        torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-7)


def test_narrow_core_is_the_super_network_masked_to_zero() -> None:
    """Algorithm 2: the core is f(p ⊙ x). Each head keeps dimensions, and the score scale stays the full one."""
    narrow = partitioned_attention("cross")
    masked = copy.deepcopy(narrow)
    for projection in (masked.q_proj, masked.k_proj):
        projection.extension_weight.data.zero_()
        projection.extension_bias.data.zero_()
    query, key = inputs("cross")
    with use_level(narrow, 1):
        assert narrow.q_proj(query).shape[-1] == HEADS * 2
        output, weights = narrow(query, key, key, static_kv=True, need_head_weights=True)
    expected, expected_weights = masked(query, key, key, static_kv=True, need_head_weights=True)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights, expected_weights)
    uniform = torch.full_like(weights, 1 / SOURCE)
    for head in range(HEADS):
        assert not torch.allclose(weights[head], uniform[head], atol=1e-3), f"head {head} attends to nothing"


@pytest.mark.parametrize("variant", ["add_bias_kv", "add_zero_attn"])
def test_variants_that_are_not_computed_are_refused(variant: str) -> None:
    with pytest.raises(ValueError, match="is not supported in a partitioned model"):
        PartitionedMultiheadAttention.convert_(MultiheadAttention(EMBED, HEADS, **{variant: True}))


def partitioned_attention(kind: str) -> PartitionedMultiheadAttention:
    attention = PartitionedMultiheadAttention.convert_(stock_attention(kind))
    for name in ("q_proj", "k_proj"):
        stock = getattr(attention, name)
        stock.weight.data.mul_(3)  # scores far from uniform
        stock.bias.data.normal_()
        setattr(attention, name, PartitionedLinear.from_linear(stock, 0.5, dim=0, groups=HEADS))
    return attention
