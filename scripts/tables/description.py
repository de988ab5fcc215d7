"""Read from ``tables.yaml`` what a table holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fairseq_ats.cli.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = Path(__file__).with_name("tables.yaml")

# Networks in the order of the paper's columns, with the paper's headings; it has no others.
COLUMNS = {"core": "Sub-Network", "level2": "Level 2", "super": "Full Network", "perturbed": "Pruned"}

# What a row may need of another; scripts/tables/needs.py says what each is.
NEEDS = ("init_from", "core_data", "data")


@dataclass(frozen=True)
class SearchChoices:
    """Beam search; if there are several values, the validation set decides."""

    beams: tuple[int, ...]
    length_penalties: tuple[float, ...]

    @property
    def is_tuned(self) -> bool:
        return len(self.beams) * len(self.length_penalties) > 1


@dataclass(frozen=True)
class Recipe:
    """A folder of configuration files, its data, and how its networks are decoded.

    Args:
        languages: source and target.
        averaged_epochs: decode the average of so many last epochs; None decodes each network's best checkpoint.
        sentences, length, vocabulary: of the training data, roughly, for the expected cost.
    """

    name: str
    title: str
    configs: Path
    data: Path
    prepare: str
    languages: tuple[str, str]
    averaged_epochs: int | None
    search: SearchChoices
    sentences: int
    length: int
    vocabulary: int

    @property
    def is_strong(self) -> bool:
        """Return whether the recipe is ours and not the paper's."""
        return self.name.endswith("_strong")

    def config(self, row: str) -> Path:
        return self.configs / f"{row}.yaml"


@dataclass(frozen=True)
class Published:
    """A published number: mean over runs, and standard deviation if it was published."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: of the configuration file.
        networks: that are decoded, of :data:`COLUMNS`.
        against: network → the row in which the same network was trained alone; may lack a network.
        needs: what the training gets from the runs of earlier rows; the keys of :mod:`scripts.tables.needs`.
        averaged_epochs: instead of the recipe's, for a training of another length; "recipe" is the recipe's.
        workers: processes that train it together; several are of ``fairseq-ats launch``, on a CPU.
    """

    name: str
    label: str
    networks: tuple[str, ...]
    published: Mapping[str, Published] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    averaged_epochs: int | Literal["recipe"] | None = "recipe"
    workers: int = 1


@dataclass(frozen=True)
class Table:
    """A layout of rows of one recipe.

    Raises:
        ValueError: a row needs what is not an earlier row, or in a way that is not known.
    """

    name: str
    title: str
    recipe: Recipe
    rows: tuple[Row, ...]
    published_by: str | None

    def __post_init__(self) -> None:
        earlier: set[str] = set()
        for row in self.rows:
            for key, name in row.needs.items():
                if key not in NEEDS or name not in earlier:
                    raise ValueError(
                        f"table {self.name}: {row.name} needs {key}: {name}; allowed: {', '.join(NEEDS)}, and a row "
                        "before it"
                    )
            earlier.add(row.name)

    def row(self, name: str) -> Row:
        """Return the row of this name."""
        return next(row for row in self.rows if row.name == name)

    def recipe_of(self, row: Row) -> Recipe:
        """Return the recipe with the row's own way of choosing checkpoints."""
        if row.averaged_epochs == "recipe":
            return self.recipe
        return replace(self.recipe, averaged_epochs=row.averaged_epochs)

    @property
    def columns(self) -> dict[str, str]:
        """Return the :data:`COLUMNS` that some row has."""
        there = {network for row in self.rows for network in row.networks}
        return {network: heading for network, heading in COLUMNS.items() if network in there}


def read_tables(path: Path = DESCRIPTION, configs: Path = ROOT / "configs") -> dict[str, Table]:
    """Return every table by name.

    Args:
        configs: has a folder for each recipe.
    """
    description = read_yaml(path)
    recipes = {name: _recipe(name, entry, configs / name) for name, entry in description["recipes"].items()}
    return {
        name: Table(
            name=name,
            title=entry["title"],
            recipe=recipes[entry["recipe"]],
            rows=tuple(_row(row) for row in entry["rows"]),
            published_by=entry.get("published_by"),
        )
        for name, entry in description["tables"].items()
    }


def _recipe(name: str, entry: dict[str, Any], configs: Path) -> Recipe:
    checkpoints, search = entry.pop("checkpoints"), entry.pop("search")
    return Recipe(
        name=name,
        configs=configs,
        data=Path(entry.pop("data")),
        languages=tuple(entry.pop("languages")),
        averaged_epochs=_averaged(checkpoints),
        search=SearchChoices(_several(search["beam"]), _several(search["length_penalty"])),
        **entry,
    )


def shown(path: Path) -> Path:
    """Return a path as seen from the repository's root, if it is inside."""
    path = path.absolute()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _several(value: Any) -> tuple:
    return tuple(value) if isinstance(value, list) else (value,)


def _row(entry: dict[str, Any]) -> Row:
    return Row(
        name=entry["row"],
        label=entry["label"],
        networks=tuple(entry["networks"]),
        published={network: Published(*values) for network, values in entry.get("published", {}).items()},
        against=entry.get("against", {}),
        needs=entry.get("needs", {}),
        averaged_epochs=_averaged(entry["checkpoints"]) if "checkpoints" in entry else "recipe",
        workers=entry.get("workers", 1),
    )


def _averaged(checkpoints: str | int) -> int | None:
    return None if checkpoints == "best" else int(checkpoints)
