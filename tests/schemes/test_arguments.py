"""Arguments of schemes in JSON: every problem is told, with what is allowed."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf, ValidationError

from fairseq_ats.options.values import Options
from fairseq_ats.schemes.arguments import described, parsed
from fairseq_ats.schemes.dropout import Dropout
from fairseq_ats.schemes.extragradient import Extragradient
from fairseq_ats.schemes.layerwise import Layerwise
from fairseq_ats.schemes.meprop import MeProp
from fairseq_ats.schemes.options import SCHEMES_OF_PARTS, SchemeOptions
from fairseq_ats.schemes.prune import Prune
from fairseq_ats.schemes.schedule import SchemeName
from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig


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


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (MeProp, '{"kind": "top", "ratio": 0.1}', "kind 'top'; allowed: exact, layer, unified"),
        (MeProp, '{"kind": "exact", "ratio": 0}', "ratio 0; allowed: 0 < ratio <= 1"),
        (MeProp, '{"kind": "exact", "ratio": 1.01}', "ratio 1.01; allowed: 0 < ratio <= 1"),
        (Extragradient, '{"step": 0}', "step 0; allowed: finite, not 0"),
        (Extragradient, '{"step": Infinity}', "step inf; allowed: finite, not 0"),
        (Extragradient, '{"step": 1, "gradient": "next"}', "gradient 'next'; allowed: same, past"),
        (Layerwise, '{"order": "down"}', "order 'down'; allowed: cyclic, random, growing"),
        (Prune, '{"sparsity": 1, "end": 9}', "sparsity 1; allowed: 0 <= sparsity < 1"),
        (Prune, '{"sparsity": 0.5, "end": 9, "begin": -1}', "begin -1; allowed: 0 or more"),
        (Prune, '{"sparsity": 0.5, "end": 9, "every": 0}', "every 0; allowed: 1 or more"),
        (Prune, '{"sparsity": 0.5, "end": 9, "feedback": 1}', "feedback 1; allowed: true or false"),
    ],
)
def test_ranges(kind: type, text: str, problem: str) -> None:
    assert parsed(kind, text)[1] == [f"--scheme-args has {problem}"]


def test_in_the_yaml_file_of_hydra() -> None:
    """As text in quotes; without them it is a mapping, which is no value of a text."""
    declared = OmegaConf.structured(PartitionedTranslationConfig)
    text = "scheme: dropout\nscheme_args: "
    cfg = OmegaConf.merge(declared, OmegaConf.create(text + "'{\"keep_prob\": 0.25}'"))
    scheme = Options(cfg).scheme.scheme_of(2)
    assert isinstance(scheme, Dropout)
    assert scheme.keep_prob == 0.25
    with pytest.raises(ValidationError, match="scheme_args"):
        OmegaConf.merge(declared, OmegaConf.create(text + "{keep_prob: 0.25}"))


def test_the_help_has_every_argument() -> None:
    text = described(SCHEMES_OF_PARTS)
    assert "dropout: keep_prob (probability to keep, 0 < keep_prob <= 1, required)" in text
    assert 'order (which layers move, cyclic, random, growing, default "cyclic")' in text
