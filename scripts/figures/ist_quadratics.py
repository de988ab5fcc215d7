#!/usr/bin/env python3
"""Run independent subnet training on a quadratic, where its limit is known, and draw how it converges.

    python -m scripts.figures.ist_quadratics OUTPUT [--steps 10000] [--seed 1]

f(x) = ½ xᵀLx − bᵀx in d dimensions, n workers, and C_i = n · (the coordinates of part i), drawn for each step by the
package's own draws ("Towards a Better Theoretical Understanding of Independent Subnetwork Training", Shulgin and
Richtárik):

    x ← (1/n) Σ C_i (x − γ ∇f(C_i x)) = x − γ (B x − b),    B = (1/n) Σ C_i L C_i

Two coordinates meet in a part with probability a = (d/n − 1) / (d − 1), so that E B = n ((1 − a) diag(L) + a L), and
the mean of x goes to (E B)⁻¹ b, which is not the minimiser L⁻¹ b. Without b both are 0, and x itself gets there.
*Preconditioned*: the same in coordinates in which diag(L) = 1. Writes OUTPUT.jsonl with a line for each recorded step,
draws OUTPUT.png, and prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from tabulate import tabulate
from torch import Tensor

from fairseq_ats.cli.environment import silence_libraries
from fairseq_ats.files import written_whole
from fairseq_ats.schemes.draws import Draws
from scripts.figures.png import new_figure, write_png

DIMENSIONS, WORKERS = 16, 4
STEPSIZES = (0.1, 0.01)  # times the largest stable one
RECORDED = 200  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="path of the numbers and the picture, without their endings")
    parser.add_argument("--steps", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    silence_libraries(logging.ERROR)
    records, rows = [], []
    for name, L, b in problems(args.seed):
        for factor in STEPSIZES:
            stepsize = factor / (WORKERS * float(torch.linalg.eigvalsh(L)[-1]))
            run = list(descent(L, b, stepsize, args.steps, Draws(args.seed)))
            records += [{"run": name, "stepsize": factor} | record for record in run]
            last, closed_form = run[-1], limit(L, b)
            numbers = [f"{last['of_x']:.1e}", "", "0"]
            if closed_form > 0:
                numbers = [f"{number:.4f}" for number in (last["of_x"], last["of_mean"], closed_form)]
            rows.append([name, f"{factor:g}", *numbers])
    with written_whole(f"{args.output}.jsonl") as path:
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    draw(records, {name: limit(L, b) for name, L, b in problems(args.seed)}, Path(f"{args.output}.png"))
    header = ["problem", "γ · n · λ_max", "distance of x", "distance of the mean", "closed form"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def problems(seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield a name, L and b of each problem; the eigenvalues of L are from 1 to 10."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator, dtype=torch.float64))
    L = basis @ torch.diag(torch.linspace(1, 10, DIMENSIONS).double()) @ basis.T
    b = torch.randn(DIMENSIONS, generator=generator, dtype=torch.float64)
    scale = L.diagonal().rsqrt()
    yield "b = 0", L, torch.zeros_like(b)
    yield "b ≠ 0", L, b
    yield "b ≠ 0, preconditioned", scale[:, None] * L * scale, scale * b


def sketched(L: Tensor, owners: Tensor, workers: int) -> Tensor:
    """Return B = (1/n) Σ C_i L C_i.

    Args:
        owners: the part of each coordinate.
    """
    return workers * L * (owners[:, None] == owners)


def expected(L: Tensor, workers: int) -> Tensor:
    """Return E B over all divisions into parts of equal sizes."""
    a = (len(L) // workers - 1) / (len(L) - 1)
    return workers * ((1 - a) * L.diagonal().diag() + a * L)


def limit(L: Tensor, b: Tensor, workers: int = WORKERS) -> float:
    """Return the relative distance of the mean's limit (E B)⁻¹ b from the minimiser; 0 without b."""
    return relative(torch.linalg.solve(expected(L, workers), b), torch.linalg.solve(L, b))


def descent(L: Tensor, b: Tensor, stepsize: float, steps: int, draws: Draws) -> Iterator[dict[str, float]]:
    """Yield the distances of x, and of the mean of the last half of its steps, from the minimiser, from time to time.

    Distances are relative to the minimiser's norm; without b, to that of the start, which is 1 in each coordinate.
    """
    best = torch.linalg.solve(L, b)
    x = torch.ones_like(b)
    sums = [torch.zeros_like(b)]
    for number in range(1, steps + 1):
        B = sketched(L, draws.divided(WORKERS, len(b), number, "x"), WORKERS)
        x = x - stepsize * (B @ x - b)
        sums.append(sums[-1] + x)
        if number % (steps // RECORDED) == 0:
            half = number // 2
            mean = (sums[number] - sums[half]) / (number - half)
            yield {"step": number, "of_x": relative(x, best), "of_mean": relative(mean, best)}


def relative(x: Tensor, best: Tensor) -> float:
    """Return ‖x − x*‖ / ‖x*‖, or where x* = 0, ‖x‖ relative to a vector of ones."""
    norm = best.norm() if best.norm() > 0 else torch.ones_like(best).norm()
    return float((x - best).norm() / norm)


def draw(records: list[dict], limits: dict[str, float], path: Path) -> None:
    """Draw the distances of x without b, and of x and its mean with b beside the closed form."""
    figure = new_figure(4 * len(limits), 3.6)
    for number, (name, closed_form) in enumerate(limits.items(), start=1):
        axes = figure.add_subplot(1, len(limits), number)
        for color, stepsize in zip(("tab:blue", "tab:orange"), STEPSIZES, strict=True):
            run = [record for record in records if record["run"] == name and record["stepsize"] == stepsize]
            steps = [record["step"] for record in run]
            axes.plot(steps, [record["of_x"] for record in run], color, alpha=0.4, label=f"x, {stepsize:g} / nλ")
            if closed_form > 0:
                axes.plot(steps, [record["of_mean"] for record in run], color, label=f"its mean, {stepsize:g} / nλ")
        if closed_form > 0:
            axes.axhline(closed_form, color="black", linestyle=":", label="closed form")
            axes.set_ylim(0, 1.5)
        else:
            axes.set_yscale("log")
        axes.set(title=name, xlabel="step", ylabel="distance from the minimiser")
        axes.legend(fontsize="small")
    write_png(figure, path)


if __name__ == "__main__":
    main()
