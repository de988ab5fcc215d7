"""Make figures with matplotlib and write them as PNG files, without pyplot, which keeps figures in a global."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_ats.files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib is imported where it is used: it logs while it is imported, unless ``silence_libraries`` was there before.


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_png(figure: Figure, path: Path) -> None:
    """Write a PNG; the same figure and the same matplotlib give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with written_whole(path) as temporary:
        # Without the name of the program, which tells its version.
        FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
