"""List the cores of a model that fit a budget of parameters or FLOPs.

The layers of one side are alike, so every count is affine in the numbers of layers: three small cores of each kind give
all depths.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.architectures.transformer import partition_model_
from fairseq_ats.cost.cost import network_cost
from fairseq_ats.cost.synthetic import random_batch
from fairseq_ats.modules.levels import use_level
from fairseq_ats.partition.partition import Partition
from fairseq_ats.partition.shares import RANK, WHOLE, WIDTH, Share

# A ratio of 1/2 does not pay for low rank.
RATIOS = {WIDTH: (0.5, 0.25, 0.125, 0.0625, 0.03125), RANK: (0.25, 0.125, 0.0625, 0.03125)}

_NEAREST = 3


@dataclass(frozen=True)
class Core:
    """A core of a given model.

    Args:
        encoder_layers, decoder_layers, share: what it has.
        options: the options that make it.
        parameters: with embeddings.
        step: the FLOPs of a decoding step of one hypothesis, its second.
        flops: the FLOPs of an update, forward and backward, relative to the whole model's.
    """

    encoder_layers: int
    decoder_layers: int
    share: Share
    options: str
    parameters: int
    step: int
    flops: float

    @property
    def ats_flops(self) -> float:
        """The FLOPs of an average ATS update relative to an update of the whole model."""
        return (1 + self.flops) / 2


def cores_within(
    model: Any, task: Any, length: int, parameters: int | None, flops: float | None
) -> tuple[Core, list[Core]]:
    """Return the whole model, and of each number of decoder layers and each kind the largest core within the budget.

    Args:
        model: a stock Transformer.
        length: the number of tokens in a sentence.
        parameters, flops: the budget, in the units of :class:`Core`; None: no limit.

    Raises:
        ValueError: no core is within the budget; the message names the nearest ones.
    """
    whole, *cores = _cores(model, task, length)

    def excess(core: Core) -> float:
        """How many times the budget the core takes."""
        return max(core.parameters / (parameters or np.inf), core.flops / (flops or np.inf))

    fitting = [core for core in cores if excess(core) <= 1]
    if not fitting:
        nearest = sorted(cores, key=excess)[:_NEAREST]
        raise ValueError(
            "no core is within the budget; the nearest are: "
            + "; ".join(f"{core.options} ({core.parameters:,} parameters, {core.flops:.2f} FLOPs)" for core in nearest)
        )
    largest = {(core.decoder_layers, core.share.module_name): core for core in sorted(fitting, key=excess)}
    return whole, sorted(largest.values(), key=lambda core: core.step)


def _cores(model: Any, task: Any, length: int) -> Iterator[Core]:
    """Yield the whole model, and then its cores."""
    deepest = model.encoder.num_layers, model.decoder.num_layers
    total = _counts(model, task, length, None)
    yield Core(*deepest, WHOLE, "", int(total[0]), int(total[1]), 1.0)
    few = [min(2, depth) for depth in deepest]
    points = [(1, 1), (1, few[1]), (few[0], few[1])]
    depths = [(e, d) for e in {deepest[0], max(1, deepest[0] // 2)} for d in range(1, deepest[1] + 1)]
    for share in [WHOLE, *(Share(kind, (ratio,)) for kind, ratios in RATIOS.items() for ratio in ratios)]:
        whole = {deepest} if share == WHOLE else set()
        below = [point for point in dict.fromkeys(points) if point not in whole]
        counts = dict.fromkeys(whole, total)
        if below:
            encoder, decoder = zip(*below, strict=True)
            shares = Share(share.module_name, share.ratios * len(below))
            split = copy.deepcopy(model)
            partition = Partition(
                core_encoder_layers=encoder, core_decoder_layers=decoder, core_ffn=shares, core_qk=shares
            )
            partition_model_(split, partition, initialise=False)
            counts |= {point: _counts(split, task, length, level) for level, point in enumerate(below, start=1)}
        first, with_decoder, with_both = (counts[point] for point in points)
        for e, d in sorted(set(depths) - whole):
            size, step, flops = first + (e - 1) * (with_both - with_decoder) + (d - 1) * (with_decoder - first)
            options = f"--core-encoder-layers {e} --core-decoder-layers {d}"
            if share != WHOLE:
                options += f" --partitioned-linear-module-name {share.module_name} --small-ratio {share.ratios[0]}"
            yield Core(e, d, share, options, int(size), int(step), float(flops / total[2]))


def _counts(model: Any, task: Any, length: int, level: int | None) -> np.ndarray:
    """Return parameters, FLOPs of a decoding step, and FLOPs of an update on two sentences."""
    cost = network_cost(model, task, 2, length, level)
    return np.array([cost.parameters, _step_flops(model, task, length, level), cost.flops])


@torch.no_grad()
def _step_flops(model: Any, task: Any, length: int, level: int | None) -> int:
    batch = random_batch(task, 1, length)["net_input"]
    model.eval()
    with use_level(model, level) if level is not None else sdpa_kernel(SDPBackend.MATH), sdpa_kernel(SDPBackend.MATH):
        encoded = model.encoder(batch["src_tokens"], batch["src_lengths"])
        state: dict[str, Any] = {}
        for tokens in (1, 2):  # the first step also makes the keys and values of the source
            with FlopCounterMode(display=False) as counter:
                model.decoder(batch["prev_output_tokens"][:, :tokens], encoder_out=encoded, incremental_state=state)
    return counter.get_total_flops()
