"""Check the options of the translation task: BLEU while training, batches, and targets of the core's own."""

from __future__ import annotations

import json
from typing import Any

from fairseq.utils import split_paths

from fairseq_ats.data.checks import buckets_problem
from fairseq_ats.options.values import Options
from fairseq_ats.partition.names import split_metric
from fairseq_ats.schemes.schedule import SchemeName


def translation_problems(cfg: Any) -> list[str]:
    """Return one message for each option with which a translation model cannot be trained.

    Args:
        cfg: the task's options, fairseq's among them.
    """
    # None while decoding, where fairseq has no optimizer.
    problems = [] if cfg.optimizer_name is None else list(filter(None, [buckets_problem(cfg.num_batch_buckets)]))
    metric = cfg.best_checkpoint_metric or ""
    problems += _core_data_problems(cfg)
    if cfg.eval_bleu:
        problems += _json_problems(cfg)
    elif split_metric(metric)[1] == "bleu":
        problems.append(f"--best-checkpoint-metric is {metric}, which needs --eval-bleu")
    return problems


def _core_data_problems(cfg: Any) -> list[str]:
    if not cfg.core_data:
        return []
    given = f"--core-data is {cfg.core_data}"
    options = Options(cfg)
    problems = []
    if options.scheme.name != SchemeName.ALTERNATE:
        problems.append(f"{given}, which needs --scheme alternate; --scheme is {options.scheme.name}")
    for option, is_given in (
        ("--distillation-weight", options.distillation.weight != 0.0),
        ("--criteria-interval", options.criteria.interval > 0),
        ("--num-batch-buckets", cfg.num_batch_buckets > 0),
    ):
        if is_given:
            problems.append(f"{given} and {option} is given, which compares or sorts by one target; leave one out")
    if len(split_paths(cfg.data)) > 1 or len(split_paths(cfg.core_data)) > 1:
        problems.append(f"{given} and DATA is {cfg.data}; allowed: one folder each")
    return problems


def _json_problems(cfg: Any) -> list[str]:
    problems = []
    for option, value in (
        ("--eval-bleu-args", cfg.eval_bleu_args),
        ("--eval-bleu-detok-args", cfg.eval_bleu_detok_args),
    ):
        try:
            dict(json.loads(value))
        except (TypeError, ValueError):
            problems.append(f"{option} is {value}; allowed: options in JSON, as in '{{\"beam\": 4}}'")
    return problems
