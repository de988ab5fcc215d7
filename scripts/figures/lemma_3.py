#!/usr/bin/env python3
"""Check at every step of a training what Lemma 3 of the paper promises, on logistic regression.

    python -m scripts.figures.lemma_3 OUTPUT [--steps 1000] [--seed 1]

f is the mean logistic loss of scikit-learn's digits (0 to 4 or 5 to 9) with a small penalty; its smoothness L is known.
Gradients are exact, in float64; x̃ = p ⊙ x, and γ_t = α_t / L. Lemma 3 then promises a descent of at least
α_t² ‖p⊙∇f(x̃)‖² / 2L. ``dropout`` draws half of the coordinates for each step; ``ATS`` takes turns of all and of the
first half. Beside α_t are steps of 1/L, without it. Writes OUTPUT.jsonl with a line for each step, and prints Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.functional import softplus

from fairseq_ats.files import written_whole
from fairseq_ats.optim.mask import ElementMask
from fairseq_ats.optim.sgd_for_partitioned_model import SGDForPartitionedModel
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.theory.criteria import GradientProducts

PENALTY = 1e-3
Mask = Callable[[int, int], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="path of the numbers, without .jsonl")
    parser.add_argument("--steps", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    draws = Draws(args.seed)
    masks: dict[str, Mask] = {
        "dropout": lambda number, size: draws.kept(0.5, size, number, "x"),
        "ATS": lambda number, size: torch.arange(size) < (size if number % 2 == 0 else size // 2),
    }
    rows = []
    with written_whole(f"{args.output}.jsonl") as path, path.open("w", encoding="utf-8") as file:
        for name, mask in masks.items():
            for scaled in (True, False):
                run = f"{name}, {'α_t' if scaled else 'without α_t'}"
                records = list(descent(mask, args.steps, scaled))
                for record in records:
                    rounded = {name: float(f"{value:.6g}") for name, value in record.items()}
                    file.write(json.dumps({"run": run} | rounded) + "\n")
                short = [record["descent"] - record["promised"] for record in records]
                negative = sum(record["alpha_t"] < 0 for record in records)
                ascents = sum(record["descent"] < 0 for record in records)
                broken = sum(one < -1e-12 for one in short) if scaled else ""
                rows.append([run, len(records), negative, ascents, broken, f"{records[-1]['loss']:.4f}"])
    header = ["run", "steps", "α_t < 0", "ascents", "less than promised", "last loss"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))


def descent(mask: Mask, steps: int, scaled: bool) -> Iterator[dict[str, float]]:
    """Yield a record of each step: the loss before it, its descent, what Lemma 3 promises, and α_t.

    Args:
        scaled: whether α_t scales the step; where it is negative the step has length 0.
    """
    digits = load_digits()
    inputs = torch.tensor(digits.data / 16).double()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    signed = inputs * torch.where(torch.tensor(digits.target) < 5, 1.0, -1.0).double()[:, None]
    smoothness = float(torch.linalg.matrix_norm(inputs, 2)) ** 2 / (4 * len(inputs)) + PENALTY

    def loss(x: Tensor) -> float:
        return float(softplus(-signed @ x.detach()).mean() + PENALTY / 2 * x.detach().square().sum())

    def gradient(x: Tensor) -> Tensor:
        return -(signed.T @ torch.sigmoid(-signed @ x.detach())) / len(signed) + PENALTY * x.detach()

    x = nn.Parameter(torch.zeros(inputs.shape[1]).double())
    optimizer = SGDForPartitionedModel([x], lr=1 / smoothness)
    for number in range(steps):
        p = mask(number, len(x))
        whole, perturbed = gradient(x), p * gradient(p * x)
        of_mask = p * whole
        products = (whole @ whole, of_mask @ of_mask, perturbed @ perturbed, of_mask @ perturbed)
        alpha = GradientProducts(*map(float, products)).alpha_t
        scale = max(0.0, alpha) if scaled else 1.0
        before = loss(x)
        x.grad = perturbed
        with optimizer.masked(ElementMask({x: p}), scale):
            optimizer.step()
        promised = scale**2 * float(perturbed @ perturbed) / (2 * smoothness)
        yield {"loss": before, "descent": before - loss(x), "promised": promised, "alpha_t": alpha}


if __name__ == "__main__":
    main()
