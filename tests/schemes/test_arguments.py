"""Arguments of schemes in JSON: every problem is told, with what is allowed."""

from __future__ import annotations

import pytest

from fairseq_ats.schemes.arguments import described, parsed
from fairseq_ats.schemes.dropout import Dropout
from fairseq_ats.schemes.layerwise import Layerwise
from fairseq_ats.schemes.options import SCHEMES_OF_PARTS, SchemeOptions
from fairseq_ats.schemes.schedule import SchemeName


def test_arguments_with_their_defaults() -> None:
    scheme = SchemeOptions(SchemeName.DROPOUT, arguments='{"keep_prob": 1, "unit": "weight"}').scheme_of(3)
    assert isinstance(scheme, Dropout)
    assert (scheme.keep_prob, scheme.unit, scheme.scale, scheme.max_level) == (1, "weight", "exact", 3)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (None, ["--scheme-args has no keep_prob; it must be 0 < keep_prob <= 1"]),
        ('{"keep_prob": 0}', ["--scheme-args has keep_prob 0; allowed: 0 < keep_prob <= 1"]),
        ('{"keep_prob": true}', ["--scheme-args has keep_prob True; allowed: 0 < keep_prob <= 1"]),
        ('{"keep_prob": NaN}', ["--scheme-args has keep_prob nan; allowed: 0 < keep_prob <= 1"]),
        (
            '{"keep_prob": 1.5, "unit": 3, "keep": 1}',
            [
                "--scheme-args has keep; allowed: keep_prob, unit, scale",
                "--scheme-args has keep_prob 1.5; allowed: 0 < keep_prob <= 1",
                "--scheme-args has unit 3; allowed: neuron, weight",
            ],
        ),
        ("keep_prob=0.5", ["--scheme-args is keep_prob=0.5; allowed: an object in JSON, as in '{\"keep_prob\": 0.5}'"]),
        ("[1]", ["--scheme-args is [1]; allowed: an object in JSON, as in '{\"keep_prob\": 0.5}'"]),
    ],
)
def test_problems(text: str | None, problems: list[str]) -> None:
    assert parsed(Dropout, text)[1] == problems
    assert SchemeOptions(SchemeName.DROPOUT, arguments=text).problems(2) == problems
    with pytest.raises(ValueError, match="--scheme-args"):
        SchemeOptions(SchemeName.DROPOUT, arguments=text).scheme_of(2)


def test_a_whole_number_is_no_text_and_no_fraction() -> None:
    for value in ("1.5", '"2"', "0"):
        assert parsed(Layerwise, f'{{"updates": {value}}}')[1] == [
            f"--scheme-args has updates {value.replace(chr(34), chr(39))}; allowed: 1 or more"
        ]


def test_the_help_has_every_argument() -> None:
    text = described(SCHEMES_OF_PARTS)
    assert "dropout: keep_prob (probability to keep, 0 < keep_prob <= 1, required)" in text
    assert 'order (which layers move, cyclic, random, growing, default "cyclic")' in text
