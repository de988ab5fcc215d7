"""Read YAML as its author means it: a value is what is written, or one sentence says where it cannot be.

YAML 1.1, which PyYAML reads, takes ``3:1`` for 181, ``010`` for 8 and ``2020-01-01`` for a date, and of a key that is
there twice it keeps the last value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

_TAG = "tag:yaml.org,2002:"
_INT = r"[-+]?(?:0|[1-9][0-9]*)$"
_FLOAT = r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"


class _Loader(yaml.SafeLoader):
    """Decimal numbers are numbers; what else is neither a truth value nor nothing is text, as it is written."""

    yaml_implicit_resolvers: ClassVar[dict[str, list]] = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) in ("bool", "merge", "null")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    # The stubs give the anchor another type.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _TAG + "merge":
                continue
            if key.value in first:
                message = f"{key.value} is given a second time; the first is in line {first[key.value]}"
                raise ConstructorError(problem=message, problem_mark=key.start_mark)
            first[key.value] = key.start_mark.line + 1
        return node

    def construct_yaml_bool(self, node: yaml.ScalarNode) -> bool:
        if node.value.lower() in ("no", "off"):
            message = (
                f'{node.value} means false in YAML; if it is a word, write it in quotes ("{node.value}"); if you '
                "do not want the flag, leave it out"
            )
            raise ConstructorError(problem=message, problem_mark=node.start_mark)
        return super().construct_yaml_bool(node)


_Loader.add_implicit_resolver(_TAG + "int", re.compile(_INT), list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", re.compile(_FLOAT), list("-+.0123456789"))
_Loader.add_constructor(_TAG + "bool", _Loader.construct_yaml_bool)


def read_yaml(path: Path) -> Any:
    """Return what the file holds.

    Raises:
        ValueError: the file is not UTF-8 or not YAML, a key is there twice, or a word would be taken for false; the
            message names the file and the line.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
        return _Loader(text).get_single_data()
    except UnicodeDecodeError as error:
        line, problem = content[: error.start].count(b"\n") + 1, f"not UTF-8: {error.reason}"
    except ReaderError as error:
        line, problem = text[: error.position].count("\n") + 1, f"{chr(error.character)!r}: {error.reason}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1 if mark else 1, error.problem or error.context or "not YAML"
        if "'\\t'" in problem:
            problem += "; YAML wants spaces here, and no tab"
    raise ValueError(f"{path}, line {line}: {problem}")
