"""What the converter takes for the same network, and what not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fairseq_ats.convert.verification import (
    VerificationError,
    check_difference,
    check_same_beams,
    read_sentences,
)
from fairseq_ats.data.text import Text
from fairseq_ats.inference.engine import Hypothesis
from tests.support.conversions import convert, save_checkpoint

LONGEST = 30
CAT, DOG = Hypothesis(("a", "cat"), -1.0), Hypothesis(("a", "dog"), -1.5)


def test_sentences_are_those_that_are_translated(tmp_path: Path) -> None:
    """Blank lines left out, white space of any kind between tokens, and long lines in parts."""
    (tmp_path / "text").write_text("a b\u0085c\n\n\u3000d\u2028e\n1 2 3 4 5 6\n", encoding="utf-8")
    sentences = read_sentences(tmp_path / "text", Text(None), 4)
    assert sentences == [["a", "b", "c"], ["d", "e"], ["1", "2", "3", "4"], ["5", "6"]]


def test_networks_of_few_positions_are_verified(build: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    """With learned positions there are no more than the options say."""
    limits = ["--max-source-positions", "9", "--max-target-positions", "7"]
    built = build(*limits, "--encoder-learned-pos", "--decoder-learned-pos", "--small-ratio", "0.25")
    convert(save_checkpoint(built, tmp_path / "few.pt"), "core", tmp_path / "core.pt", to="core")


def test_identical_beams() -> None:
    rounded = Hypothesis(CAT.tokens, -1.2)
    assert (
        check_same_beams([CAT, DOG], [rounded, DOG], LONGEST)
        == "best hypotheses of the beams: 2 of 2 sentences identical"
    )


def test_another_hypothesis_is_an_error() -> None:
    with pytest.raises(VerificationError, match="beams: 1 of 2 sentences identical; the others differ"):
        check_same_beams([CAT, DOG], [CAT, CAT], LONGEST)
    assert (
        check_same_beams([CAT, DOG], [CAT, CAT], LONGEST, exact=False)
        == "best hypotheses of the beams: 1 of 2 sentences identical"
    )
    with pytest.raises(ValueError, match="shorter"):
        check_same_beams([CAT, DOG], [CAT], LONGEST)


def test_a_tie_is_none() -> None:
    tie = Hypothesis(("the", "cat"), CAT.score - 5e-4)
    assert "1 with another hypothesis of the same score" in check_same_beams([CAT, DOG], [tie, DOG], LONGEST)
    with pytest.raises(VerificationError, match="the others differ"):
        check_same_beams([CAT, DOG], [tie, CAT], LONGEST)


def test_a_hypothesis_without_an_end_is_none() -> None:
    endless = [Hypothesis(("a",) * (LONGEST - 1) + (last,), score) for last, score in (("b", -1.0), ("c", -2.0))]
    assert f"1 without an end after {LONGEST} tokens" in check_same_beams([endless[0]], [endless[1]], LONGEST)
    with pytest.raises(VerificationError, match="the others differ"):
        check_same_beams([endless[0]], [DOG], LONGEST)


def test_one_cut_off_before_one_that_ends() -> None:
    """CTranslate2 ranks it without an end: it has the better score, or the network is another."""
    better, worse = (Hypothesis(("a",) * LONGEST, score) for score in (CAT.score + 0.1, CAT.score - 0.1))
    assert f"1 without an end after {LONGEST} tokens" in check_same_beams([CAT], [better], LONGEST)
    with pytest.raises(VerificationError, match="the others differ"):
        check_same_beams([CAT], [worse], LONGEST)


def test_differences() -> None:
    expected = torch.tensor([-1.0, -2.0, -3.0])
    off = expected + torch.tensor([0.0, 0.0, 0.3])
    assert "differ by at most 0.3 nats" in check_difference("logits", expected, off, 0.31)
    assert "differ by 0.1 nats on average" in check_difference("logits", expected, off, 0.11, on_average=True)
    for tolerance, found, on_average in ((0.29, off, False), (0.09, off, True), (1.0, off / 0 * 0, False)):
        with pytest.raises(VerificationError, match="logits differ from the source's by"):
            check_difference("logits", expected, found, tolerance, on_average)
