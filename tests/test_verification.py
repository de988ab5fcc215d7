"""What the converter takes for the same network, and what not."""

from __future__ import annotations

import pytest
import torch

from fairseq_ats.convert.verification import (
    MAX_LEN_B,
    Hypothesis,
    VerificationError,
    check_difference,
    check_same_beams,
)

CAT, DOG = Hypothesis(("a", "cat"), -1.0), Hypothesis(("a", "dog"), -1.5)


def test_identical_beams() -> None:
    rounded = Hypothesis(CAT.tokens, -1.2)
    assert check_same_beams([CAT, DOG], [rounded, DOG]) == "best hypotheses of the beams: 2 of 2 sentences identical"


def test_another_hypothesis_is_an_error() -> None:
    with pytest.raises(VerificationError, match="beams: 1 of 2 sentences identical; the others differ"):
        check_same_beams([CAT, DOG], [CAT, CAT])
    assert (
        check_same_beams([CAT, DOG], [CAT, CAT], exact=False)
        == "best hypotheses of the beams: 1 of 2 sentences identical"
    )
    with pytest.raises(ValueError, match="shorter"):
        check_same_beams([CAT, DOG], [CAT])


def test_a_tie_is_none() -> None:
    tie = Hypothesis(("the", "cat"), CAT.score - 5e-4)
    assert "1 with another hypothesis of the same score" in check_same_beams([CAT, DOG], [tie, DOG])
    with pytest.raises(VerificationError, match="the others differ"):
        check_same_beams([CAT, DOG], [tie, CAT])


def test_a_hypothesis_without_an_end_is_none() -> None:
    endless = [Hypothesis(("a",) * (MAX_LEN_B - 1) + (last,), score) for last, score in (("b", -1.0), ("c", -2.0))]
    assert f"1 without an end after {MAX_LEN_B} tokens" in check_same_beams([endless[0]], [endless[1]])
    with pytest.raises(VerificationError, match="the others differ"):
        check_same_beams([endless[0]], [DOG])


def test_differences() -> None:
    expected = torch.tensor([-1.0, -2.0, -3.0])
    off = expected + torch.tensor([0.0, 0.0, 0.3])
    assert "differ by at most 0.3 nats" in check_difference("logits", expected, off, 0.31)
    assert "differ by 0.1 nats on average" in check_difference("logits", expected, off, 0.11, on_average=True)
    for tolerance, found, on_average in ((0.29, off, False), (0.09, off, True), (1.0, off / 0 * 0, False)):
        with pytest.raises(VerificationError, match="logits differ from the source's by"):
            check_difference("logits", expected, found, tolerance, on_average)
