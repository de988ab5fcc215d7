"""Read the tables of Markdown."""

from __future__ import annotations


def cells_of(table: str) -> list[list[str]]:
    """Return the cells of Markdown tables, row by row, without the lines below their headers."""
    lines = (line.strip("|") for line in table.splitlines() if line.startswith("|") and not line.startswith("|-"))
    return [[cell.strip() for cell in line.split("|")] for line in lines]
