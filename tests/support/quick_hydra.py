"""Spare the tests what hydra does again for each command line; every configuration is as without this module.

hydra takes half a second for one command line of fairseq, longer than many trainings of the tests: it parses each of
300 options with a grammar, and loads and merges the same groups of defaults.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from fairseq import options
from fairseq.dataclass import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from omegaconf import DictConfig, OmegaConf

parse_rule, compose = OverridesParser.parse_rule, utils.compose


@cache
def _parsed(text: str, rule: str) -> Any:
    return parse_rule(OverridesParser(create_functions()), text, rule)


@cache
def _composed(groups: tuple[str, ...]) -> DictConfig:
    return compose("config", overrides=list(groups), strict=False)


def _compose(config_name: str, overrides: list[str], strict: bool) -> DictConfig:
    """Compose the groups once ("task=...", "model=..."), and apply the options to a copy as hydra does."""
    groups = tuple(text for text in overrides if "." not in text.partition("=")[0])
    cfg = copy.deepcopy(_composed(groups))
    values = [_parsed(text, "override") for text in overrides if text not in groups]
    OmegaConf.set_struct(cfg, True)  # hydra/_internal/config_loader_impl.py:270
    ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
    OmegaConf.set_struct(cfg, strict)
    return cfg


def remember_compositions() -> None:
    """Compose each choice of groups once in this process, and parse each option once."""
    utils.compose = _compose


def remember_parsed_options() -> None:
    """Parse each option once in this process and in those that are forked from it; parse fairseq's defaults now."""
    # A copy, because parse_overrides writes to it (hydra/core/override_parser/overrides_parser.py:102).
    OverridesParser.parse_rule = lambda parser, text, rule: copy.copy(_parsed(text, rule))
    namespace = options.parse_args_and_arch(options.get_training_parser(), ["data", "--arch", "transformer"])
    utils.convert_namespace_to_omegaconf(namespace)
