"""Wrong options end at once, each with a sentence that names the option and what is allowed."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq import tasks

from fairseq_ats.option_checks import training_problems
from tests.conftest import OUR_TASK

Build = Callable[..., SimpleNamespace]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--small-ratio", "0"], r"--small-ratio is 0\.0; allowed: 0 < ratio < 1"),
        (["--small-ratio", "1"], r"--small-ratio is 1\.0"),
        (["--small-ratio", "-0.5"], r"--small-ratio is -0\.5"),
        (["--small-ratio", "nan"], "--small-ratio is nan"),
        (["--max-level", "0"], r"--max-level is 0; allowed: 1 \(the core alone\) or 2"),
        (["--max-level", "3"], "--max-level is 3"),
        (["--alternate", "--max-level", "1"], "--alternate needs two networks"),
        (["--best-checkpoint-metric", "bleu"], "--best-checkpoint-metric is bleu, which needs --eval-bleu"),
        (["--best-checkpoint-metric", "core_bleu"], "core_bleu, which needs --eval-bleu"),
        (["--best-checkpoint-metric", "core_loss", "--max-level", "1"], "reports as loss"),
        (["--alternate", "--alternate-pattern", "2:1:1"], "--alternate-pattern is 2:1:1; allowed: 2 numbers"),
        (
            ["--alternate", "--distributed-world-size", "2", "--ddp-backend", "fully_sharded"],
            "--ddp-backend is fully_sharded",
        ),
        (
            ["--alternate", "--distributed-world-size", "2", "--ddp-backend", "slowmo"],
            "--ddp-backend is slowmo, under which parameters cannot be masked",
        ),
        (["--alternate", "--use-bmuf"], "--use-bmuf averages all parameters"),
        (["--alternate", "--zero-sharding", "os"], "--zero-sharding is os"),
        (
            ["--alternate", "--distributed-world-size", "2"],
            "--ddp-backend is pytorch_ddp.* add --find-unused-parameters",
        ),
        (["--criteria-interval", "-1"], r"--criteria-interval is -1; allowed: 0 \(never\) or more"),
        (["--criteria-interval", "5", "--max-level", "1"], "--criteria-interval is 5, which compares two networks"),
        (["--criteria-interval", "5", "--use-bmuf"], "does not work with --use-bmuf"),
        (
            ["--criteria-interval", "5", "--distributed-world-size", "2", "--ddp-backend", "fully_sharded"],
            "--ddp-backend is fully_sharded; allowed: legacy_ddp, no_c10d, pytorch_ddp, c10d",
        ),
        (
            ["--criteria-interval", "5", "--checkpoint-activations"],
            "--criteria-interval does not work with --checkpoint-activations",
        ),
        (["--criteria-dropout", "off"], "--criteria-dropout needs --criteria-interval"),
        (["--criteria-by-layer-type"], "--criteria-by-layer-type needs --criteria-interval"),
        (["--adam-eps", "-1"], r"--adam-eps is -1\.0; allowed: > 0"),
        (["--adam-betas", "__import__('os').getcwd()"], r"--adam-betas is __import__.*; allowed: two numbers"),
        (["--weight-decay", "-1"], r"--weight-decay is -1\.0; allowed: 0 or more"),
        (["--max-tokens", "-5"], "--max-tokens is -5; allowed: 1 or more"),
        (["--batch-size", "0"], "--batch-size is 0; allowed: 1 or more"),
        (["--update-freq", "1,0"], "--update-freq is 0; allowed: 1 or more"),
        (["--lr=-0.1"], r"--lr is -0\.1; allowed: 0 or more"),
    ],
)
def test_refused(build: Build, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)


@pytest.fixture(scope="module")
def training_options(parse: Callable[..., Any]) -> Any:
    return parse().task


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"alternate": True, "scheme": "slimmable"},
            "--alternate is --scheme alternate, and --scheme is slimmable",
        ),
        ({"scheme": "slimmable", "max_level": 1}, "--scheme slimmable needs two networks"),
        ({"scheme": "core", "max_level": 2}, "--scheme core builds the core alone and --max-level is 2"),
        ({"alternate_pattern": "3:1"}, "is 3:1, which needs --scheme alternate; --scheme is standard"),
        (
            {"alternate": True, "alternate_pattern": "3:x"},
            "--alternate-pattern is '3:x'; allowed: whole numbers above 0",
        ),
        (
            {"alternate": True, "super_only_updates": -1},
            "--super-only-updates is -1; allowed: 0 or more",
        ),
        ({"super_only_updates": 5}, "--super-only-updates is 5, which needs --scheme alternate or slimmable"),
        (
            {"scheme": "core", "core_only_from": 5},
            "--core-only-from is 5, which needs --scheme alternate or slimmable; --scheme is core",
        ),
        (
            {"alternate": True, "super_only_updates": 5, "core_only_from": 5},
            r"--core-only-from is 5; allowed: more than --super-only-updates \(5\)",
        ),
        ({"alternate": True, "distillation_weight": 1.5}, r"-weight is 1\.5; allowed: 0 to 1"),
        ({"alternate": True, "distillation_weight": math.nan}, "-weight is nan; allowed: 0 to 1"),
        ({"distillation_weight": 0.5}, r"--distillation-weight is 0\.5, which needs --scheme alternate or"),
        (
            {"alternate": True, "distillation_weight": 1.0, "distillation_temperature": 0.0},
            r"--distillation-temperature is 0\.0; allowed: above 0",
        ),
        (
            {"alternate": True, "distillation_temperature": 2.0},
            "which needs --distillation-weight above 0",
        ),
        (
            {
                "scheme": "slimmable",
                "distributed_world_size": 2,
                "ddp_backend": "slowmo",
            },
            "--ddp-backend is slowmo, under which an update cannot run several networks; with --scheme slimmable use",
        ),
        (
            {"scheme": "slimmable", "distributed_world_size": 2},
            r"--ddp-backend is pytorch_ddp.* with --scheme slimmable add --find-unused-parameters",
        ),
        (
            {"scheme": "slimmable", "core_only_from": 9, "use_bmuf": True},
            "with --scheme slimmable --core-only-from leave it out",
        ),
        (
            {"scheme": "slimmable", "core_only_from": 9, "optimizer_name": "adam"},
            "--scheme slimmable --core-only-from needs adam_for_partitioned_model",
        ),
        ({"scheme": "slimmable", "optimizer_name": "adam"}, None),
        (
            {
                "scheme": "slimmable",
                "distributed_world_size": 2,
                "ddp_backend": "legacy_ddp",
            },
            None,
        ),
    ],
)
def test_schemes(training_options: Any, given: dict[str, Any], message: str | None) -> None:
    cfg = copy.deepcopy(training_options)
    cfg.update(given)
    problems = training_problems(cfg)
    if message is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert re.search(message, problems[0])


def test_all_problems_at_once(build: Build) -> None:
    said = r"--small-ratio is 2.*--max-level is 7.*--alternate-lr-coef is -1.*--adam-betas is 7.*--update-freq is 0"
    with pytest.raises(ValueError, match=said):
        build(*"--small-ratio 2 --max-level 7 --alternate-lr-coef -1 --adam-betas 7 --update-freq 0".split())


def test_alternation_needs_our_optimizer(build: Build) -> None:
    with pytest.raises(ValueError, match="--optimizer is adam; --alternate needs adam_for_partitioned_model"):
        build("--alternate", optimizer="adam")
    build(optimizer="adam")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ddp-backend", "legacy_ddp"],
        ["--ddp-backend", "no_c10d"],
        ["--ddp-backend", "pytorch_ddp", "--find-unused-parameters"],
    ],
)
def test_accepted_with_two_workers(build: Build, arguments: list[str]) -> None:
    build("--alternate", "--distributed-world-size", "2", *arguments)


def test_unknown_module_name(parse: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--partitioned-linear-module-name", "PartitionedConv")
    message = capsys.readouterr().err
    assert "argument --partitioned-linear-module-name: invalid choice: 'PartitionedConv'" in message
    assert "PartitionedRankLinear" in message


def test_options_are_checked_before_the_data_is_read(parse: Callable[..., Any]) -> None:
    cfg = parse("--small-ratio", "2")
    cfg.task.data = "/nowhere"
    with pytest.raises(ValueError, match="--small-ratio is 2"):
        tasks.setup_task(cfg.task)


def test_defaults_are_the_papers(build: Build) -> None:
    """Table 4 of the paper."""
    built = build()
    assert built.cfg.task._name == OUR_TASK
    assert built.cfg.optimizer.alternate_lr_coef == 1.0
    assert built.cfg.optimizer.adam_betas == [0.9, 0.98]
    assert built.cfg.optimizer.adam_eps == 1e-9
    assert built.task.partition.to_dict() == {
        "module_name": "PartitionedRankLinear",
        "small_ratio": 0.03125,
        "max_level": 2,
    }


def test_no_option_of_ours_hides_one_of_fairseqs(parse: Callable[..., Any]) -> None:
    """fairseq drops a second option of the same name silently (fairseq/dataclass/utils.py:213)."""
    options = ["--scheme", "alternate", "--alternate-pattern", "3:1", "--super-only-updates", "4"]
    options += ["--core-only-from", "9", "--distillation-weight", "0.5", "--distillation-temperature", "2"]
    cfg = parse("--max-level", "2", "--small-ratio", "0.5", "--alternate", "--alternate-lr-coef", "2", *options)
    assert (cfg.task.max_level, cfg.task.small_ratio, cfg.task.alternate) == (2, "0.5", True)
    assert cfg.optimizer.alternate_lr_coef == 2.0
    task = cfg.task
    assert (task.scheme, task.alternate_pattern, task.super_only_updates, task.core_only_from) == (
        "alternate",
        "3:1",
        4,
        9,
    )
    assert (task.distillation_weight, task.distillation_temperature) == (0.5, 2.0)
