#!/usr/bin/env python3
"""Draw what MAST converges to, and how fast, on a quadratic.

    python -m scripts.figures.mast_quadratics OUTPUT [--steps 4000] [--seed 1]

f = ½ xᵀAx − bᵀx of 16 unknowns in float64, with the package's own sketches and steps. Left: how far the least mean loss
of the sparsified versions, min f_D, is above min f: the closed form, and the mean over draws at its minimiser. Middle:
SGD over 8 Bernoulli sketches, with and without variance reduction, by steps of 1/(6 L), L the largest smoothness of a
sketched loss. Right: 4 workers that keep a quarter each, by steps of 1/(40 L), L that of f. Writes OUTPUT.png and the
numbers, OUTPUT.jsonl, and prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from tabulate import tabulate
from torch import Tensor, nn

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.files import written_whole
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.mast import Mast
from fairseq_ats.schemes.points import MovedPoint, Point
from scripts.figures.png import new_figure, write_png

SIZE, WORKERS, SAMPLES = 16, 4, 500


class Quadratic:
    """f, its sketched versions, and MAST on them.

    Args:
        shift: v; the run begins there. None: v = 0, from a random start.
        arguments: of the scheme.
    """

    def __init__(self, seed: int, shift: Tensor | None = None, **arguments: Any) -> None:
        generator = torch.Generator().manual_seed(seed)
        root, self.b, start = (torch.randn(SIZE, n, generator=generator).double() for n in (SIZE, 1, 1))
        self.a, self.b = root @ root.T / SIZE + 0.1 * torch.eye(SIZE).double(), self.b[:, 0]
        self.v = torch.zeros(SIZE).double() if shift is None else shift
        self.x = nn.Parameter(start[:, 0] if shift is None else shift.clone())
        self.scheme = Mast(unit="weight", shift="zero" if shift is None else "start", **arguments)
        self.scheme.max_level = 1
        self.scheme.attach(ModelParts({"x": self.x}, {"x": self.x}, [], [], [], []), Draws(seed))

    def loss(self, x: Tensor) -> Tensor:
        return x @ self.a @ x / 2 - self.b @ x

    def take_gradients(self, *points: Point) -> None:
        gradients = []
        for point in (cast(MovedPoint, one) for one in points):
            scaled = cast(Tensor, point.gradient_scale(self.x))
            gradients.append(scaled * (self.a @ cast(Tensor, point.value(self.x)) - self.b))
        self.x.grad = sum(gradients) / len(points)

    def minimiser(self, moment: Tensor) -> Tensor:
        """Return the minimiser of f_D, whose sketches have E[s sᵀ] = ``moment``."""
        return self.v + torch.linalg.solve(self.a * moment, self.b - self.a @ self.v)

    def errors(self, solution: Tensor, steps: int, lr: float, workers: int, reduces: bool) -> Iterator[float]:
        """Make steps; yield the relative distance to the solution before each."""
        for number in range(steps):
            yield float((self.x.detach() - solution).norm() / solution.norm())
            update = self.scheme.update(number)
            self.take_gradients(*(point for n in range(workers) for point in self.scheme.points_of(update, n)))
            if reduces:
                self.scheme.before_step(update, self.take_gradients)
            self.x.data -= lr * cast(Tensor, self.x.grad)


def moment(kind: str, keep_prob: float) -> Tensor:
    """Return E[s sᵀ] of a sketch, from its table in ``fairseq_ats/schemes/sketches.py``."""
    kept = keep_prob * SIZE
    off = {
        "bernoulli": 1.0,
        "rand-k": SIZE * (kept - 1) / (kept * (SIZE - 1)),
        "permutation": (kept - 1) / (SIZE - 1) / keep_prob,
    }[kind]
    return torch.full((SIZE, SIZE), off).double().fill_diagonal_(1 / keep_prob)


def gaps(seed: int) -> Iterator[dict[str, Any]]:
    """Yield min f_D − min f for shifts between 0 and the minimiser of f: the closed form, and as sampled."""
    plain = Quadratic(seed)
    best = torch.linalg.solve(plain.a, plain.b)
    for share in (0.0, 0.5, 0.9, 1.0):
        for keep_prob in (0.2, 0.3, 0.5, 0.7, 0.9):
            one = Quadratic(seed, share * best, keep_prob=keep_prob)
            one.scheme.update(0)
            one.x.data = one.minimiser(moment("bernoulli", keep_prob))
            z = one.x.detach() - one.v
            closed = one.loss(one.x.detach()) + (1 / keep_prob - 1) / 2 * (one.a.diagonal() * z * z).sum()
            points = [cast(MovedPoint, one.scheme.update(n).points[0]) for n in range(SAMPLES)]
            sampled = torch.stack([one.loss(cast(Tensor, point.value(one.x)).detach()) for point in points])
            least = one.loss(best)
            yield {
                "run": f"v = {share:g} x*",
                "keep_prob": keep_prob,
                "gap": float(closed - least),
                "sampled": float(sampled.mean() - least),
                "error": float(sampled.std() / SAMPLES**0.5),
            }


def reduced(seed: int, steps: int) -> Iterator[tuple[str, list[float]]]:
    """Yield the errors of SGD over 8 sketches, of which variance reduction knows the mean."""
    for method in ("none", "l-svrg", "page"):
        one = Quadratic(seed, variance_reduction="page" if method == "none" else method)
        drawn = [one.scheme._fixed(n).scales[one.x] for n in range(one.scheme.sketches)]
        matrices = [s[:, None] * one.a * s for s in drawn]
        solution = torch.linalg.solve(sum(matrices) / len(drawn), sum(drawn) * one.b / len(drawn))
        lr = 1 / (6 * max(float(torch.linalg.matrix_norm(m, 2)) for m in matrices))
        name = "without variance reduction" if method == "none" else method
        yield name, list(one.errors(solution, steps, lr, workers=1, reduces=method != "none"))


def distributed(seed: int, steps: int) -> Iterator[tuple[str, list[float]]]:
    """Yield the errors of SGD with 4 workers, each with a sketch of its own."""
    for kind in ("bernoulli", "rand-k", "permutation"):
        given = {"batches": WORKERS} if kind == "permutation" else {"keep_prob": 1 / WORKERS}
        one = Quadratic(seed, sketch=kind, **given)
        lr = 1 / (10 * WORKERS * float(torch.linalg.matrix_norm(one.a, 2)))
        yield kind, list(one.errors(one.minimiser(moment(kind, 1 / WORKERS)), steps, lr, WORKERS, reduces=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="path of the picture and the numbers, without .png")
    parser.add_argument("--steps", type=int, default=4000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    silence_libraries()
    least = list(gaps(args.seed))
    panels = [dict(reduced(args.seed, args.steps)), dict(distributed(args.seed, args.steps))]
    every = max(1, args.steps // 100)
    figure = new_figure(13, 4)
    of_gaps, *of_errors = figure.subplots(1, 3)
    for run in dict.fromkeys(record["run"] for record in least):
        records = [record for record in least if record["run"] == run]
        kept = [record["keep_prob"] for record in records]
        (line,) = of_gaps.plot(kept, [record["gap"] for record in records], label=run)
        of_gaps.plot(kept, [record["sampled"] for record in records], "o", color=line.get_color())
    of_gaps.set(xlabel="keep probability", ylabel="min f_D − min f")
    for axes, runs in zip(of_errors, panels, strict=True):
        for name, errors in runs.items():
            axes.semilogy(range(0, args.steps, every), errors[::every], label=name)
        axes.set(xlabel="update", ylabel="distance to the minimiser, relative")
    for axes in figure.axes:
        axes.legend()
    write_png(figure, Path(f"{args.output}.png"))
    with written_whole(f"{args.output}.jsonl") as path, path.open("w", encoding="utf-8") as file:
        for record in least:
            file.write(json.dumps({n: float(f"{v:.6g}") if n != "run" else v for n, v in record.items()}) + "\n")
        for runs in panels:
            for name, errors in runs.items():
                for update in range(0, args.steps, every):
                    file.write(
                        json.dumps({"run": name, "update": update, "error": float(f"{errors[update]:.6g}")}) + "\n"
                    )
    last = max(1, args.steps // 10)
    rows = [[name, f"{sum(e[-last:]) / last:.2g}"] for runs in panels for name, e in runs.items()]
    print(tabulate(rows, ["run", "mean error of the last tenth"], tablefmt="github", disable_numparse=True))
    apart = max(abs(record["sampled"] - record["gap"]) / max(record["error"], 1e-12) for record in least)
    print(f"\nmin f_D as sampled is at most {apart:.1f} standard errors from its closed form.")


if __name__ == "__main__":
    main()
