"""Wrong options end at once, each with a sentence that names the option and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq import tasks

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
    cfg = parse("--max-level", "2", "--small-ratio", "0.5", "--alternate", "--alternate-lr-coef", "2")
    assert (cfg.task.max_level, cfg.task.small_ratio, cfg.task.alternate) == (2, 0.5, True)
    assert cfg.optimizer.alternate_lr_coef == 2.0
