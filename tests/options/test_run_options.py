"""A resumed run has the options of its updates from its checkpoint, and says what is given otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.dataclass.utils import merge_with_parent

from fairseq_ats.checkpoints.keys import RUN_KEY
from fairseq_ats.optim.adam_for_partitioned_model import FairseqAdamForPartitionedModel
from fairseq_ats.options.checks import training_problems
from fairseq_ats.options.run_options import recall_, settle_
from fairseq_ats.options.values import Options
from fairseq_ats.schemes.schedule import Schedule
from fairseq_ats.tasks.translation_with_partitioned_model import PartitionedTranslationConfig
from tests.support.conversions import save_checkpoint

Build = Callable[..., SimpleNamespace]

RUN = "--alternate --alternate-pattern 2:1 --super-only-updates 3 --distillation-weight 0.5".split()
SCHEDULE = Schedule("alternate", 2, (2, 1), super_only_updates=3)


@pytest.fixture(scope="module")
def checkpoint(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(build(*RUN, "--small-ratio", "0.25"), tmp_path_factory.mktemp("run") / "run.pt")


def test_what_is_not_given_is_the_checkpoints(
    build: Build, checkpoint: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """And is remembered again, when the run is resumed a second time."""
    for source in (checkpoint, tmp_path / "again.pt"):
        resumed = build("--restore-file", str(source))
        assert resumed.task.scheme == SCHEDULE
        assert (resumed.task.cfg.distillation_weight, resumed.task.cfg.distillation_temperature) == (0.5, 1.0)
        save_checkpoint(resumed, tmp_path / "again.pt")
    assert f"resuming {checkpoint} with its own --scheme alternate" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


MEMORY = {
    "scheme": "alternate",
    "alternate_pattern": "2:1",
    "super_only_updates": 3,
    "core_only_from": None,
    "distillation_weight": 0.5,
    "distillation_temperature": 1.0,
    "distillation_from": 2,
    "freeze": "embed_tokens",
}


@pytest.fixture(scope="module")
def training_options(parse: Callable[..., Any]) -> Any:
    return merge_with_parent(PartitionedTranslationConfig(), parse().task)  # as fairseq sets a task up


@pytest.fixture
def options(training_options: Any) -> Any:
    return copy.deepcopy(training_options)


@pytest.mark.parametrize(
    ("given", "schedule", "weight", "said"),
    [
        ({}, SCHEDULE, 0.5, []),
        (MEMORY, SCHEDULE, 0.5, []),
        ({"alternate": True}, SCHEDULE, 0.5, []),
        (
            {"scheme": "standard"},
            Schedule("standard", 2),
            0.0,
            ["--scheme alternate, and --scheme is standard now"],
        ),
        (
            {"scheme": "standard", "freeze": ""},
            Schedule("standard", 2),
            0.0,
            ["--scheme alternate, and --scheme is standard now", "--freeze embed_tokens, and it is  now"],
        ),
        (
            {"scheme": "slimmable", "core_only_from": 9},
            Schedule("slimmable", 2, core_only_from=9),
            0.0,
            ["--scheme alternate, and --scheme is slimmable now"],
        ),
        (
            {"alternate_pattern": "1:1", "core_only_from": 9},
            Schedule("alternate", 2, (1, 1), super_only_updates=3, core_only_from=9),
            0.5,
            ["--alternate-pattern 2:1, and it is 1:1 now", "without --core-only-from, and it is 9 now"],
        ),
        ({"alternate_pattern": "2:1@0"}, SCHEDULE, 0.5, []),
        (
            {"alternate_pattern": "1:1@0,2:1@9", "distillation_from": 4},
            Schedule("alternate", 2, (1, 1), super_only_updates=3, changes=((9, (2, 1)),)),
            0.5,
            ["--alternate-pattern 2:1, and it is 1:1@0,2:1@9 now", "--distillation-from 2, and it is 4 now"],
        ),
        ({"distillation_weight": 0.0}, SCHEDULE, 0.0, ["--distillation-weight 0.5, and it is 0.0 now"]),
    ],
)
def test_what_is_given_counts_and_is_said(
    options: Any, given: dict[str, Any], schedule: Schedule, weight: float, said: list[str]
) -> None:
    options.update(given)
    assert recall_(options, {RUN_KEY: MEMORY}) == said
    settle_(options)
    assert Options(options).scheme.schedule(2) == schedule
    assert options.distillation_weight == weight
    assert options.freeze == given.get("freeze", "embed_tokens"), "whatever the scheme"
    assert training_problems(options) == []


def test_a_temperature_without_distillation_is_not_recalled(options: Any) -> None:
    options.distillation_weight = 0.0
    recall_(options, {RUN_KEY: MEMORY | {"distillation_temperature": 2.0}})
    settle_(options)
    assert training_problems(options) == []


def test_a_contradiction_is_logged(build: Build, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = build("--restore-file", str(checkpoint), "--scheme", "standard").task
    assert task.scheme == Schedule("standard", 2)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{checkpoint} was trained with --scheme alternate, and --scheme is standard now"]


def test_what_is_remembered_is_checked(build: Build, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="--optimizer is adam; --scheme alternate needs adam_for_partitioned_model"):
        build("--restore-file", str(checkpoint), optimizer="adam")


@pytest.mark.parametrize("option", [["--reset-optimizer", "--restore-file"], ["--finetune-from-model"]])
def test_weights_alone_bring_no_options(build: Build, checkpoint: Path, option: list[str]) -> None:
    assert build(*option, str(checkpoint)).task.scheme == Schedule("standard", 2)


def test_a_checkpoint_of_an_older_version(
    build: Build, checkpoint: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    state = torch.load(checkpoint)
    del state["task_state"][RUN_KEY]
    torch.save(state, tmp_path / "older.pt")
    assert build("--restore-file", str(tmp_path / "older.pt")).task.scheme == Schedule("standard", 2)
    assert "was trained with" not in caplog.text


@pytest.mark.parametrize(
    ("memory", "message"),
    [("alternate", "the checkpoint's options of the run are a str"), ({"scheme": "zigzag"}, "zigzag")],
)
def test_a_memory_that_cannot_be(options: Any, memory: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_(options, {RUN_KEY: memory})


def test_choices_are_remembered_by_name(build: Build, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """fairseq makes the type of an option's choices as it goes, and no checkpoint can hold a value of it."""
    options = "--scheme ist --parts 2 --update-freq 2 --partitioned-linear-module-name PartitionedLinear".split()
    began = save_checkpoint(build(*options, "--shared-parameters", "fixed"), tmp_path / "ist.pt")
    for given, kept in ((), "fixed"), (("fixed",), "fixed"), (("synchronous",), "synchronous"):
        caplog.clear()
        again = [word for value in given for word in ("--shared-parameters", value)]
        assert build("--restore-file", str(began), *options, *again).task.scheme.shared_parameters == kept
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        expected = f"{began} was trained with --shared-parameters fixed, and it is synchronous now"
        assert said == ([expected] if kept != "fixed" else [])


@pytest.mark.parametrize("scheme", [["--max-level", "1"], []])
def test_a_core_alone_goes_on_as_it_began(
    build: Build, caplog: pytest.LogCaptureFixture, tmp_path: Path, scheme: list[str]
) -> None:
    began = save_checkpoint(build("--max-level", "1", "--small-ratio", "0.25"), tmp_path / "core.pt")
    assert build("--restore-file", str(began), *scheme).task.scheme.update(0).levels == (1,)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("saved", "given", "expected", "said"),
    [
        ("0.5", [], 0.5, None),
        ("0.5", ["--alternate-lr-coef", "0.5"], 0.5, None),
        ("0.5", ["--alternate-lr-coef", "2"], 2.0, "trained with --alternate-lr-coef 0.5, and it is 2.0 now"),
        (None, [], 1.0, None),
        (None, ["--alternate-lr-coef", "2"], 2.0, None),
    ],
)
def test_the_coefficient_is_remembered(
    parse: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    saved: str | None,
    given: list[str],
    expected: float,
    said: str | None,
) -> None:
    """None: in the state of an older version."""

    def optimizer(*options: str) -> FairseqAdamForPartitionedModel:
        return FairseqAdamForPartitionedModel(parse(*options).optimizer, [torch.nn.Parameter(torch.zeros(2))])

    state = optimizer(*(["--alternate-lr-coef", saved] if saved else [])).state_dict()
    if saved is None:
        del state["param_groups"][0]["alternate_lr_coef"]
    resumed = optimizer(*given)
    resumed.load_state_dict(state)
    assert resumed.param_groups[0]["alternate_lr_coef"] == expected
    assert (said or "") in caplog.text
    assert said is not None or "alternate-lr-coef" not in caplog.text
