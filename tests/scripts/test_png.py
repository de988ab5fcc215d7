"""``scripts/figures/png.py``: what is drawn fits into the picture."""

from __future__ import annotations

import pytest

from scripts.figures.png import legend_below, new_figure


@pytest.mark.parametrize(("letters", "columns"), [(10, 2), (60, 1), (120, 1)])
def test_a_legend_is_not_wider_than_the_figure(letters: int, columns: int) -> None:
    """60 letters of 8 points take more than 4 inches: once they fit into 6 inches, twice they do not."""
    figure = new_figure(6, 4)
    lines = figure.subplots().plot([1, 2], [[1, 2, 3], [4, 5, 6]])
    legend_below(figure, {f"{name} {'x' * letters}": line for name, line in zip("abc", lines, strict=True)})
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == columns
    assert legend.get_window_extent().width <= figure.bbox.width
