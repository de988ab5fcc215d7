"""Wrong options end at once, each with a sentence that names the option and what is allowed."""

from __future__ import annotations

import copy
import math
import re
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fairseq import optim, tasks
from fairseq.dataclass.constants import DDP_BACKEND_CHOICES
from omegaconf import OmegaConf

from fairseq_ats.options.checks import host as option_checks
from fairseq_ats.options.checks import training_problems
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.run_options import settle_
from tests.fixtures import OUR_OPTIMIZER, OUR_TASK

Build = Callable[..., SimpleNamespace]

IST = ["--scheme", "ist", "--parts", "2"]
TWO_WORKERS = ["--distributed-world-size", "2", "--ddp-backend", "legacy_ddp"]
DROPOUT = ["--scheme", "dropout", "--scheme-args", '{"keep_prob": 0.5}']


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
            ["--alternate", "--alternate-pattern", "1:1@0,2:1:1@9"],
            "--alternate-pattern is 1:1@0,2:1:1@9; allowed: 2 numbers",
        ),
        (["--alternate", "--ddp-backend", "fully_sharded"], "--ddp-backend is fully_sharded, under which parameters"),
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
            ["--criteria-interval", "5", "--ddp-backend", "fully_sharded"],
            "--criteria-interval is 5 and --ddp-backend is fully_sharded; allowed: legacy_ddp",
        ),
        *(
            (
                ["--best-checkpoint-metric", metric],
                f"--best-checkpoint-metric is {metric}; allowed: a metric that validation computes",
            )
            for metric in ("c_norm", "level2_q_t_encoder_fc1", "core_distillation", "super_gnorm")
        ),
        (
            ["--criteria-interval", "5", "--distributed-world-size", "2", "--ddp-backend", "fully_sharded"],
            "--ddp-backend is fully_sharded; allowed: legacy_ddp, no_c10d, pytorch_ddp, c10d",
        ),
        (
            ["--criteria-interval", "5", "--checkpoint-activations"],
            "--criteria-interval does not work with --checkpoint-activations",
        ),
        (
            ["--criteria-interval", "5", "--offload-activations"],
            "--criteria-interval does not work with --offload-activations",
        ),
        (["--scheme-args", "{}"], "--scheme-args is .., which needs --scheme dropout or"),
        (["--scheme", "dropout"], "--scheme-args has no keep_prob; it must be 0 < keep_prob <= 1"),
        ([*DROPOUT, "--optimizer", "adam"], "--optimizer is adam; --scheme dropout needs adam_for_partitioned_model"),
        ([*DROPOUT, "--amp"], "--amp does not work with --scheme dropout, whose updates are of float32 weights"),
        (
            [*DROPOUT, "--distributed-world-size", "2"],
            "--ddp-backend is pytorch_ddp; allowed with --scheme dropout and several workers: legacy_ddp",
        ),
        (DROPOUT, "unit is neuron.* allowed: unit weight, or --partitioned-linear-module-name PartitionedLinear"),
        ([*DROPOUT, "--checkpoint-activations"], "--scheme dropout does not work with --checkpoint-activations"),
        ([*DROPOUT, "--distillation-weight", "0.5"], "which needs --scheme alternate or slimmable"),
        ([*DROPOUT, "--super-only-updates", "3"], "which needs --scheme alternate or slimmable"),
        (["--parts", "2"], "--parts is 2, which needs --scheme ist; --scheme is standard"),
        (["--scheme", "ist"], "--parts is not given; it must be 2 or more"),
        ([*IST, "--scheme-args", '{"parts": 2}'], "--scheme-args has parts; allowed: scale"),
        (
            [*IST, "--local-updates", "0"],
            r"--local-updates is 0; .*--parts is 2, and an update has 1 .* \(1\) times the number of workers \(1\)",
        ),
        ([*IST, "--update-freq", "2,1"], "--update-freq is 2,1; allowed with --scheme ist: one number"),
        ([*IST, "--update-freq", "2"], "apart; allowed: --partitioned-linear-module-name PartitionedLinear"),
        (
            [*IST, "--update-freq", "2", "--shared-parameters", "local"],
            "--shared-parameters is local.*as many workers as --parts, and --update-freq 1",
        ),
        (
            [*IST, *TWO_WORKERS, "--criteria-interval", "30", "--no-save-optimizer-state", "--store-ema"],
            r"--no-save-optimizer-state keeps.*--store-ema reads.*multiples of --local-updates \(20\)",
        ),
        (["--freeze", "embed", "--fp16"], "--fp16 does not work with --freeze"),
        (["--step-scale", "-1"], "--step-scale is -1; allowed: a number above 0, or alpha"),
        (["--step-scale", "nan"], "--step-scale is nan; allowed: a number above 0, or alpha"),
        (["--step-scale", "beta"], "--step-scale is beta; allowed: a number above 0, or alpha"),
        (["--alternate", "--step-scale", "alpha"], "--step-scale is alpha, which needs --criteria-interval"),
        (
            "--alternate --step-scale alpha --criteria-interval 2 --criteria-of core".split(),
            "--step-scale is alpha and --criteria-of is core; allowed: scheme",
        ),
        (
            ["--alternate", "--step-scale", "0.5", "--alternate-lr-coef", "0.5"],
            "--step-scale is 0.5 and --alternate-lr-coef is 0.5; leave one of them out",
        ),
        (["--criteria-of", "core"], "--criteria-of needs --criteria-interval"),
        (["--criteria-interval", "2", "--criteria-of", "{}"], "--criteria-of has no keep_prob"),
        (["--criteria-interval", "2", "--criteria-of", "me"], "--criteria-of is me; allowed: an object in JSON"),
        (["--criteria-dropout", "off"], "--criteria-dropout needs --criteria-interval"),
        (["--criteria-by-layer-type"], "--criteria-by-layer-type needs --criteria-interval"),
        (["--adam-eps", "-1"], r"--adam-eps is -1\.0; allowed: > 0"),
        (["--adam-betas", "__import__('os').getcwd()"], r"--adam-betas is __import__.*; allowed: two numbers"),
        (["--weight-decay", "-1"], r"--weight-decay is -1\.0; allowed: 0 or more"),
        (["--max-tokens", "-5"], "--max-tokens is -5; allowed: 1 or more"),
        (["--batch-size", "0"], "--batch-size is 0; allowed: 1 or more"),
        (["--required-batch-size-multiple", "0"], "--required-batch-size-multiple is 0, by which fairseq divides"),
        (["--validate-interval", "0"], "--validate-interval is 0, by which fairseq divides; allowed: 1"),
        (["--save-interval", "0"], "--save-interval is 0, by which fairseq divides; allowed: 1"),
        (["--log-interval", "0"], "--log-interval is 0, by which fairseq divides; allowed: 1"),
        (["--warmup-updates", "0"], "--warmup-updates is 0; allowed: 1 or more, with --lr-scheduler inverse_sqrt"),
        (
            ["--eval-bleu", "--eval-bleu-args", "{beam: 4}"],
            r"--eval-bleu-args is \{beam: 4\}; allowed: options in JSON",
        ),
        (["--update-freq", "1,0"], "--update-freq is 0; allowed: 1 or more"),
        (["--lr=-0.1"], r"--lr is -0\.1; allowed: 0 or more"),
        (
            ["--distributed-world-size", "2", "--ddp-backend", "pytorch_ddp", "--find-unused-parameters"],
            "--ddp-backend is pytorch_ddp, which fairseq has for GPUs only; on a CPU: legacy_ddp",
        ),
        (["--num-batch-buckets", "3"], "--num-batch-buckets is 3, for which fairseq calls numpy .*; leave it out"),
        (["--write-checkpoints-asynchronously"], "--write-checkpoints-asynchronously writes checkpoints in place"),
    ],
)
def test_refused(build: Build, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*arguments)


@pytest.fixture(scope="module")
def training_options(parse: Callable[..., Any]) -> Any:
    options = parse().task
    settle_(options)
    return options


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
            {"alternate": True, "alternate_pattern": "1:1@0,3:1@x"},
            "--alternate-pattern is '1:1@0,3:1@x'; allowed: .* with the updates at which they begin, from 0 upwards",
        ),
        (
            {"alternate": True, "distillation_weight": 0.5, "distillation_from": -1},
            "--distillation-from is -1; allowed: 0 or more",
        ),
        (
            {"alternate": True, "distillation_from": 9},
            "--distillation-from is 9, which needs --distillation-weight above 0",
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
            r"--distillation-temperature is 0\.0; allowed: 0\.01 to 100",
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
def test_schemes(
    training_options: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str | None
) -> None:
    monkeypatch.setattr(option_checks, "trains_on_cpu", lambda cfg: False)
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


# All that fairseq has; each trains by alternation, or is refused by name.
BACKENDS = {
    "legacy_ddp": True,
    "no_c10d": True,
    "pytorch_ddp": True,
    "c10d": True,
    "slowmo": False,
    "fully_sharded": False,
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_of_two_workers(build: Build, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr(option_checks, "trains_on_cpu", lambda cfg: False)
    options = ["--alternate", "--distributed-world-size", "2", "--ddp-backend", backend, "--find-unused-parameters"]
    if BACKENDS[backend]:
        build(*options)
    else:
        with pytest.raises(ValueError, match=f"--ddp-backend is {backend}, under which parameters cannot be masked"):
            build(*options)


def test_no_backend_is_forgotten() -> None:
    assert {str(choice.value) for choice in DDP_BACKEND_CHOICES} == set(BACKENDS)


@pytest.mark.parametrize(
    ("options", "of_hydra", "message"),
    [
        (["--fp16", "--fp16-no-flatten-grads"], {}, "--fp16 needs a GPU: .* use --autocast bfloat16"),
        (["--memory-efficient-fp16"], {}, "--fp16 needs a GPU"),
        (["--amp"], {}, "--amp needs a GPU: .* use --autocast bfloat16"),
        (["--bf16"], {}, r"--bf16 on the command line means a TPU .* common\.bf16=true"),
        (["--memory-efficient-bf16"], {}, "--bf16 on the command line means a TPU"),
        ([], {"memory_efficient_bf16": True}, r"common\.memory_efficient_bf16 is true and common\.bf16 is not"),
        ([], {"memory_efficient_fp16": True}, r"common\.memory_efficient_fp16 is true and common\.fp16 is not"),
    ],
)
def test_precisions_of_a_cpu(
    parse: Callable[..., Any], options: list[str], of_hydra: dict[str, bool], message: str
) -> None:
    cfg = parse(*options)
    cfg.task.update(of_hydra)  # the command line cannot give one without the other
    with pytest.raises(ValueError, match=message):
        tasks.setup_task(cfg.task)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fp16"], "--fp16 puts all parameters into one tensor, .* add --fp16-no-flatten-grads, or use"),
        (["--fp16", "--fp16-no-flatten-grads", "--amp"], "--fp16 and --amp are different ways to lower precision"),
        (["--fp16", "--fp16-no-flatten-grads"], None),
        (["--memory-efficient-fp16"], None),
        (["--amp"], None),
    ],
)
def test_precisions_of_a_gpu(
    build: Build, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str | None
) -> None:
    monkeypatch.setattr(option_checks, "trains_on_cpu", lambda cfg: False)
    if message is None:
        build(*options)
    else:
        with pytest.raises(ValueError, match=message):
            build(*options)


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
    optimizer = optim.OPTIMIZER_REGISTRY[OUR_OPTIMIZER](built.cfg.optimizer, list(built.model.parameters()))
    assert optimizer.param_groups[0]["alternate_lr_coef"] == 1.0
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


def test_an_optimizer_without_typed_options_is_refused(parse: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="--optimizer is adamax, an old one of fairseq, whose options have no types"):
        tasks.setup_task(parse("--scheme", "standard", optimizer="adamax").task)


def test_a_scheduler_without_typed_options_is_refused() -> None:
    whole = OmegaConf.create({"task": {}, "lr_scheduler": None}, flags={"allow_objects": True})
    whole.lr_scheduler = Namespace(_name="manual")
    with pytest.raises(ValueError, match=r"--lr-scheduler is manual, an old one .* such as inverse_sqrt, fixed"):
        option_of(whole.task, "lr_scheduler", "_name")
