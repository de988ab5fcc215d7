"""Check the options before anything is read, and tell all problems at once.

Each rule stands beside the value that it protects. This package collects the rules, and has those about fairseq's own
options: where it computes (:mod:`~fairseq_ats.options.checks.host`), what a run starts from
(:mod:`~fairseq_ats.options.checks.start`), and what only a translation task has
(:mod:`~fairseq_ats.options.checks.translation`).
"""

from __future__ import annotations

from fairseq_ats.architectures.pair import extension_options
from fairseq_ats.modules.fused_loss import CRITERION_NAME as FUSED_LOSS
from fairseq_ats.options.checks.host import fused_loss_problems, host_problems, range_problems
from fairseq_ats.options.checks.ist import ist_problems
from fairseq_ats.options.checks.mast import mast_problems
from fairseq_ats.options.checks.start import files_to_decode_problems, metric_problems, start_problems
from fairseq_ats.options.config import PartitionedConfig
from fairseq_ats.options.groups import option_of
from fairseq_ats.options.values import Options
from fairseq_ats.partition.fields import PrivateNorms
from fairseq_ats.partition.partition import CORE_LEVEL, Partition
from fairseq_ats.schemes.options import ALPHA, SCHEMES_OF_PARTS, criteria_of_problems
from fairseq_ats.schemes.schedule import SchemeName


def partition_problems(cfg: PartitionedConfig) -> list[str]:
    """Return one message for each invalid option or file, in training and in decoding."""
    try:
        problems = Partition.problems(Options(cfg).given_partition(trains=False))
    except ValueError as error:
        problems = [str(error), *Partition.problems({"max_level": cfg.max_level})]
    else:
        problems += _extension_problems(cfg)
    return problems + files_to_decode_problems(cfg)


def _extension_problems(cfg: PartitionedConfig) -> list[str]:
    if cfg.extension_arch is None:
        return []
    problems = []
    if option_of(cfg, "criterion", "_name") == FUSED_LOSS:
        problems.append(
            f"--extension-arch is {cfg.extension_arch} and --criterion is {FUSED_LOSS}, which needs one output layer; "
            "use label_smoothed_cross_entropy"
        )
    if cfg.scheme == SchemeName.MEPROP:
        problems.append(
            f"--extension-arch is {cfg.extension_arch} and --scheme is meprop, which does not reach fairseq's attention"
        )
    try:
        extension_options(cfg.extension_arch, cfg.extension_args)
    except ValueError as error:
        problems.append(str(error))
    return problems


def _step_scale_problems(options: Options, alternate_lr_coef: float | None) -> list[str]:
    given = f"--step-scale is {options.scheme.step_scale}"
    problems = []
    if options.scheme.step_scale is not None and alternate_lr_coef is not None:
        problems.append(f"{given} and --alternate-lr-coef is {alternate_lr_coef}; leave one of them out")
    if options.scheme.step_scale == ALPHA and not options.criteria.interval:
        problems.append(f"{given}, which needs --criteria-interval")
    if options.scheme.step_scale == ALPHA and options.criteria.of not in (None, "scheme"):
        problems.append(f"{given} and --criteria-of is {options.criteria.of}; allowed: scheme")
    return problems


def _perturbed_problems(options: Options) -> list[str]:
    given = f"--perturbed-validation is {options.perturbed_validation}"
    if options.perturbed_validation < 0:
        return [f"{given}; allowed: 0 or more"]
    allowed = [name for name, kind in SCHEMES_OF_PARTS.items() if kind.perturbs_validation]
    if options.perturbed_validation and options.scheme.name not in allowed:
        return [f"{given}, which needs --scheme {' or '.join(allowed)}; --scheme is {options.scheme.name}"]
    return []


def training_problems(cfg: PartitionedConfig) -> list[str]:
    """Return one message for each combination of options that cannot be trained with."""
    options = Options(cfg)
    return [
        *options.scheme.problems(options.max_level),
        *criteria_of_problems(options.criteria.of),
        *options.distillation.problems(options.scheme, option_of(cfg, "criterion", "rdrop_alpha")),
        *host_problems(options),
        *fused_loss_problems(option_of(cfg, "criterion", "_name"), options.host, options.distillation.weight),
        *metric_problems(options.checkpoints.best_checkpoint_metric),
        *start_problems(options),
        *_norm_problems(options),
        *_core_dropout_problems(options),
        *options.criteria.problems(options.max_level),
        *_step_scale_problems(options, option_of(cfg, "optimizer", "alternate_lr_coef")),
        *_perturbed_problems(options),
        *mast_problems(cfg, options),
        *ist_problems(cfg, options),
        *range_problems(cfg),
    ]


def _norm_problems(options: Options) -> list[str]:
    """Return the problem of private norms that no update would train."""
    partition, scheme = options.valid_partition, options.scheme
    if partition is None or partition.private_norms == PrivateNorms.NONE or partition.max_level == CORE_LEVEL:
        return []
    return scheme.needed_by(f"--private-norms is {partition.private_norms}")


def _core_dropout_problems(options: Options) -> list[str]:
    p = options.core_dropout
    if p is None:
        return []
    range_problem = [] if 0 <= p < 1 else [f"--core-dropout is {p}; allowed: 0 <= P < 1"]
    return range_problem + options.scheme.needed_by(f"--core-dropout is {p}")
