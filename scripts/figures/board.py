#!/usr/bin/env python3
"""Draw what a training sent to TensorBoard: losses, BLEU, gradient norms and criteria of every network.

    fairseq-train ... --tensorboard-logdir DIR
    python -m scripts.figures.board DIR --output board.png

The names over the panels are those of TensorBoard: the run (``train_inner``: updates, ``valid``: validations), and the
metric, which each network has under its own name.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fairseq_ats.cli.environment import silence_libraries
from scripts.figures.png import new_figure, write_png

# Of one run: metric -> pairs (number of updates, value), in order.
Metrics = dict[str, list[tuple[int, float]]]

PANELS = (
    ("train_inner", "loss"),
    ("valid", "loss"),
    ("valid", "bleu"),
    ("train_inner", "gnorm"),
    ("train_inner", "c_align"),
    ("train_inner", "q_t"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="--tensorboard-logdir of the training")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(arguments)
    silence_libraries()
    try:
        draw(read_events(args.folder), args.output)
    except ValueError as error:
        parser.error(str(error))
    print(f"wrote {args.output}", file=sys.stderr)


def read_events(folder: Path) -> dict[str, Metrics]:
    """Return the scalars of all event files below a folder, by run and metric.

    Raises:
        ValueError: there is no event file, or one is damaged.
    """
    found: dict[str, Metrics] = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        metrics = found.setdefault(path.parent.relative_to(folder).as_posix(), {})
        for step, name, value in _scalars(path):
            metrics.setdefault(name, []).append((step, value))
    if not found:
        raise ValueError(f"{folder} has no event files of TensorBoard")
    return found


def _scalars(path: Path) -> Iterator[tuple[int, str, float]]:
    """Yield the scalars of one event file, which is records of TensorFlow: length, its sum, content, its sum."""
    from tensorboardX.proto.event_pb2 import Event

    content, at = path.read_bytes(), 0
    while at < len(content):
        begin = at + 12
        end = begin + struct.unpack_from("<Q", content.ljust(begin), at)[0]
        at = end + 4
        if at > len(content):
            raise ValueError(f"{path} is truncated or damaged")
        event = Event.FromString(content[begin:end])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                yield event.step, value.tag, value.simple_value


def draw(found: Mapping[str, Metrics], path: Path) -> None:
    """Draw one panel for each metric that the training has, with one curve for each network.

    Raises:
        ValueError: the training has none of them.
    """
    panels = [(run, name, curves) for run, name in PANELS if (curves := _of_networks(found.get(run, {}), name))]
    if not panels:
        raise ValueError(f"no panel to draw; wanted: {', '.join(f'{run}/{name}' for run, name in PANELS)}")
    figure = new_figure(4 * min(3, len(panels)), 2.6 * ((len(panels) + 2) // 3))
    for number, (run, name, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot((len(panels) + 2) // 3, min(3, len(panels)), number)
        for metric, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=metric, linewidth=1.2)
        axes.set_title(f"{run}/{name}", fontsize=9)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8)
    write_png(figure, path)


def _of_networks(metrics: Metrics, name: str) -> Metrics:
    """Return the metric ``name`` of every network: ``loss`` and ``core_loss``, and not ``nll_loss``."""
    networks = ("super", "core", "level")
    return {
        metric: points
        for metric, points in sorted(metrics.items())
        if metric == name or (metric.startswith(networks) and metric.split("_", 1)[1:] == [name])
    }


if __name__ == "__main__":
    main()
