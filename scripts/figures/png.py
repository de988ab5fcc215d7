"""Make figures with matplotlib and write them as PNG files. Do not use pyplot, because it keeps figures globally."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_ats.files import written_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

# fairseq makes the root logger print everything (fairseq/models/wav2vec/wav2vec2_classification.py:25), and matplotlib
# lists the system's fonts there while it is imported and when it draws.
logging.getLogger("matplotlib").setLevel(logging.WARNING)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with the given width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """Name what is drawn below all panels: in two columns, or in one where two are wider than the figure.

    A figure that is narrower than one column becomes as wide.
    """
    add = partial(figure.legend, list(entries.values()), list(entries), loc="outside lower center", fontsize=8)
    legend = add(ncols=2)
    if legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        needed = add(ncols=1).get_window_extent().width / figure.dpi
        figure.set_figwidth(max(figure.get_figwidth(), needed))


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. The same figure and the same version of matplotlib give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with written_whole(path) as temporary:
        # Leave out the name of the program, because it contains the version.
        FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
