"""Spare the tests what hydra does again for each command line; every configuration is as without this module.

hydra takes half a second for one command line of fairseq, longer than many trainings of the tests: it parses each of
300 options with a grammar, and loads and merges the same groups of defaults.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from fairseq import options
from fairseq.dataclass import utils
from fairseq.dataclass.constants import ChoiceEnum
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, _utils, base, grammar_parser

parse_rule, compose = OverridesParser.parse_rule, utils.compose
_choices = cache(ChoiceEnum)


class _Pickler(pickle.Pickler):
    """fairseq makes the types of its choices as it goes, so that pickle finds none of them by name."""

    def persistent_id(self, value: Any) -> tuple[str, ...] | None:
        is_type_of_choices = isinstance(value, type) and issubclass(value, Enum) and value.__qualname__ == "Choices"
        return tuple(value.__members__) if is_type_of_choices else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, names: tuple[str, ...]) -> type:
        return _choices(names)


def _pickled(value: object) -> bytes:
    _Pickler(file := io.BytesIO()).dump(value)
    return file.getvalue()


def _unpickled(content: bytes) -> Any:
    return _Unpickler(io.BytesIO(content)).load()


class Shared:
    """Values that processes share through the files of a folder, each of which is whole or not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def value(self, key: object, make: Callable[[], Any]) -> Any:
        """The value of a key; the first process that needs it makes it."""
        path = self._folder / hashlib.sha256(repr(key).encode()).hexdigest()
        if path.exists():
            return _unpickled(path.read_bytes())
        value = make()
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            file.write(_pickled(value))
        os.replace(file.name, path)
        return value


class Alone:
    """The same, of a process that shares nothing."""

    def value(self, key: object, make: Callable[[], Any]) -> Any:
        return make()


_values: Shared | Alone = Alone()


@cache
def _parsed(text: str, rule: str) -> Any:
    return _values.value(text, lambda: parse_rule(OverridesParser(create_functions()), text, rule))


@cache
def _composed(groups: tuple[str, ...]) -> bytes:
    """The groups together, pickled: a copy is made by reading it, in half the time of copy.deepcopy."""
    return _values.value(groups, lambda: _pickled(compose("config", overrides=list(groups), strict=False)))


@cache
def _plain(groups: tuple[str, ...]) -> dict[str, Any]:
    return OmegaConf.to_container(_unpickled(_composed(groups)), enum_to_str=True)


def _is_there(option: Override, plain: dict[str, Any]) -> bool:
    """Whether an option has the value that the composed groups have anyway, as most do."""
    *groups, name = option.key_or_group.split(".")
    for group in groups:
        plain = plain.get(group) if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or name not in plain or option.type is not OverrideType.CHANGE:
        return False
    value = option.value()
    return isinstance(value, str | int | float | None) and type(plain[name]) is type(value) and plain[name] == value


def _compose(config_name: str, overrides: list[str], strict: bool) -> DictConfig:
    """Compose the groups once ("task=...", "model=..."), and apply the options to a copy as hydra does."""
    groups = tuple(text for text in overrides if "." not in text.partition("=")[0])
    cfg, plain = _unpickled(_composed(groups)), _plain(groups)
    values = [_parsed(text, "override") for text in overrides if text not in groups]
    OmegaConf.set_struct(cfg, True)  # hydra/_internal/config_loader_impl.py:270
    ConfigLoaderImpl._apply_overrides_to_config([value for value in values if not _is_there(value, plain)], cfg)
    OmegaConf.set_struct(cfg, strict)
    return cfg


def remember_compositions() -> None:
    """In this process compose each choice of groups, parse each option and interpolation, and look at the stack once.

    hydra reads the source of every frame for the name of its caller, which is fairseq for each command line.
    """
    utils.compose = _compose
    base.parse = _utils.parse = cache(grammar_parser.parse)
    module = sys.modules["hydra.initialize"]  # as an attribute of hydra, this name is the class
    module.detect_calling_file_or_module_from_stack_frame = cache(module.detect_calling_file_or_module_from_stack_frame)


def share_compositions(folder: Path) -> None:
    """The same for this process and all that are forked from it; parse the options of fairseq's defaults now.

    The folder must be empty: what is in it is taken for the configuration of these versions of fairseq and the plugin.
    """
    global _values
    remember_compositions()
    namespace = options.parse_args_and_arch(options.get_training_parser(), ["data", "--arch", "transformer"])
    utils.convert_namespace_to_omegaconf(namespace)
    _values = Shared(folder)
