"""Count the cost of each network and each update.

PyTorch counts the FLOPs of the matrix products in one forward and backward pass; a multiplication and an addition are
two FLOPs. Activation bytes are the memory that autograd keeps between the two passes, in float32 and on a CPU.
LayerDrop skips layers in some updates; all layers are counted in full.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.dataclass.utils import merge_with_parent
from fairseq.modules import LayerDropModuleList
from fairseq.tasks.translation import TranslationTask
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_ats.architectures.parts import ModelParts
from fairseq_ats.checkpoints.checkpoint import Checkpoint
from fairseq_ats.checkpoints.keys import IMAGE_TASK_NAME, PARTITION_KEY, TASK_NAME
from fairseq_ats.cost.synthetic import numbered_dictionary, random_batch
from fairseq_ats.inference.image_loading import load_image_network
from fairseq_ats.modules import PartitionedRankLinear
from fairseq_ats.modules.levels import use_level
from fairseq_ats.optim.mask import EVERYTHING, NOTHING, require_gradients
from fairseq_ats.options.run_options import recall_
from fairseq_ats.options.values import Options
from fairseq_ats.partition.partition import CORE_LEVEL
from fairseq_ats.partition.tags import holds
from fairseq_ats.schemes.draws import Draws
from fairseq_ats.schemes.partial_sgd import SchemeOfParts, Update
from fairseq_ats.schemes.pattern import Turns, turns_text
from fairseq_ats.schemes.schedule import Schedule, SchemeName
from fairseq_ats.tasks.translation_with_partitioned_model import (
    PartitionedTranslationConfig,
    TranslationWithPartitionedModelTask,
)
from fairseq_ats.training.freeze import frozen_parameters

# The weight, its gradient and Adam's two moments, each in float32.
BYTES_OF_A_TRAINED_PARAMETER = 16


@dataclass(frozen=True)
class Cost:
    """The cost of one network on one mini-batch.

    Args:
        parameters: the number of parameters that the network uses. A shared embedding counts once.
        embedding_parameters: the number of these parameters that are in embeddings and the output projection.
        forward_flops, backward_flops: the FLOPs of each pass for the whole mini-batch.
        activation_bytes: the bytes that autograd keeps from forward to backward, without the weights.
    """

    parameters: int
    embedding_parameters: int
    forward_flops: int
    backward_flops: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """The FLOPs of one update, forward and backward, without the optimizer."""
        return self.forward_flops + self.backward_flops

    @property
    def state_bytes(self) -> int:
        """The bytes of weights, gradients and Adam's moments in float32, if only this network is trained."""
        return self.parameters * BYTES_OF_A_TRAINED_PARAMETER


def network_cost(
    model: nn.Module,
    task: TranslationTask,
    sentences: int,
    length: int,
    level: int | None = None,
    update: Update | None = None,
) -> Cost:
    """Return the cost of one forward and backward pass of ``model`` at ``level`` in training.

    Once a mini-batch is large enough for a low-rank super-network to fold W + VU
    (:meth:`PartitionedRankLinear.forward_level`), every count is affine in the number of sentences. Two small
    mini-batches therefore determine the counts of any larger one exactly.

    Args:
        sentences: the number of sentence pairs in the mini-batch.
        length: the number of tokens in each sentence, on both sides.
        level: the network's level; None for a model that is not partitioned.
        update: count what this update does with the network, which has one point.

    Raises:
        ValueError: the network does not accept sentences of that length, or its cost depends on the words in them.
    """
    _check_countable(model, length)
    few = max([2, *(-(-m.rows_to_fold // length) for m in model.modules() if isinstance(m, PartitionedRankLinear))])
    return cost_of_batches(model, lambda size: random_batch(task, size, length), sentences, level, few, update)


def scheme_of_parts_flops(scheme: SchemeOfParts, parts: ModelParts, cost: Callable[[Update], Cost]) -> float:
    """Return the FLOPs of an average update of a scheme that trains one network by its parts.

    Args:
        cost: counts what one update does with the network.
    """
    scheme.attach(parts, Draws(seed=1))
    costs = [cost(scheme.update(number)) for number in scheme.typical_updates]
    return sum(cost.flops for cost in costs) / len(costs) * (1 + scheme.extra_passes)


def scheme_text(task: Any) -> str:
    """Return the task's scheme and its arguments, as a row of a table names them."""
    return f"{task.cfg.scheme} {task.cfg.scheme_args or ''}".rstrip()


def freeze_(task: Any, model: nn.Module) -> None:
    """Give the parameters of --freeze no gradient, as in training; what is counted then is without theirs."""
    require_gradients(frozen_parameters(model, Options(task.cfg).scheme.freeze), NOTHING)


def cost_of_batches(
    model: nn.Module,
    batch: Callable[[int], dict[str, Any]],
    size: int,
    level: int | None,
    few: int = 2,
    update: Update | None = None,
) -> Cost:
    """Return the cost of one forward and backward pass of a mini-batch of ``size``, by two small ones.

    Args:
        batch: makes a mini-batch of a size.
        few: from this size on every count is affine in the size.
    """
    sizes = (size,) if size <= 2 * few else (few, 2 * few)
    first, *second = (_count(model, batch(one), level, update) for one in sizes)
    forward, backward, activations = (
        first if not second else tuple(a + (b - a) * (size - few) // few for a, b in zip(first, *second, strict=True))
    )
    parameters = [p for p in model.parameters() if level is None or holds(p, level)]
    embeddings = [p for p in _embeddings(model) if any(p is q for q in parameters)]
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        embedding_parameters=sum(p.numel() for p in embeddings),
        forward_flops=forward,
        backward_flops=backward,
        activation_bytes=activations,
    )


def _check_countable(model: Any, length: int) -> None:
    cutoff = model.cfg.adaptive_softmax_cutoff
    if cutoff is not None:
        raise ValueError(
            f"--adaptive-softmax-cutoff is {cutoff}, with which the cost depends on how rare the words of a text are; "
            "allowed: a model without it"
        )
    longest = min(model.max_positions())
    if length > longest:
        raise ValueError(
            f"--length is {length}; allowed: up to {longest}, which is what this model takes "
            "(--max-source-positions, --max-target-positions)"
        )


def _count(
    model: nn.Module, batch: dict[str, Any], level: int | None, update: Update | None = None
) -> tuple[int, int, int]:
    """Return the FLOPs of the forward pass, the FLOPs of the backward pass, and the bytes of the activations."""
    # The criterion reads only the padding symbol from the task, and every dictionary gives that symbol the same number.
    task = SimpleNamespace(target_dictionary=Dictionary())
    criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
    was_training = model.training
    model.train()
    for layers in [module for module in model.modules() if isinstance(module, LayerDropModuleList)]:
        layers.training = False  # only the list, not its layers: the list then skips no layer
    trained = [p for p in model.parameters() if p.requires_grad]
    require_gradients(trained, EVERYTHING if update is None else update.mask)
    at_level = nullcontext() if level is None else use_level(model, level)
    with at_level if update is None else update.points[0].of(model):
        with _saved_bytes(model) as saved:
            criterion(model, batch)
        # The counter has no formula for the fused attention kernel of CPUs.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss, _, _ = criterion(model, batch)
            forward = counter.get_total_flops()
            loss.backward()
    require_gradients(trained, EVERYTHING)
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    return forward, counter.get_total_flops() - forward, sum(saved.values())


def update_flops(costs: dict[int, Cost], levels: tuple[int, ...], distils: bool = False) -> int:
    """Return the FLOPs of one update, without the optimizer.

    Args:
        costs: the cost of every level of the model.
        levels: the levels of the networks that the update runs
            (:attr:`~fairseq_ats.schemes.partial_sgd.Update.levels`).
        distils: whether the networks below the highest learn from its soft targets (--distillation-weight). If the
            update does not run the highest network itself, this adds one forward pass of it. Softmaxes are not
            counted, here or elsewhere.
    """
    highest = max(costs)
    asked = distils and highest not in levels
    return sum(costs[level].flops for level in levels) + asked * costs[highest].forward_flops


def training_flops(
    costs: dict[int, Cost], schedule: Schedule, updates: range, distils: bool = False, distils_from: int = 0
) -> int:
    """Return the FLOPs of the updates with the numbers ``updates``, all on mini-batches of one size.

    Args:
        distils: as in :func:`update_flops`.
        distils_from: the number of the first update that distils (--distillation-from).
    """
    return sum(update_flops(costs, schedule.update(n).levels, distils and n >= distils_from) for n in updates)


def average_update_flops(costs: dict[int, Cost], schedule: Schedule, distils: bool = False) -> float:
    """Return the FLOPs of an average update, in its first pattern, outside the phases that train one network alone."""
    start = schedule.super_only_updates
    endless = replace(schedule, core_only_from=None, changes=())
    return training_flops(costs, endless, range(start, start + schedule.period), distils) / schedule.period


def scheme_flops(costs: dict[int, Cost], *patterns: Turns) -> dict[str, float]:
    """Return the FLOPs of an average update of each training scheme.

    Args:
        costs: the cost of every level of the model.
        patterns: those of --alternate-pattern; each gets a row of its own.
    """
    highest = max(costs)
    core = {"core only": float(costs[CORE_LEVEL].flops)}
    if highest == CORE_LEVEL:
        return core
    alternate = Schedule(SchemeName.ALTERNATE, highest)
    result = {
        "standard (super-network only)": average_update_flops(costs, Schedule(SchemeName.STANDARD, highest)),
        **core,
        "ATS (alternate)": average_update_flops(costs, alternate),
        "ATS with distillation": average_update_flops(costs, alternate, distils=True),
        "slimmable (all in one update)": average_update_flops(costs, Schedule(SchemeName.SLIMMABLE, highest)),
    }
    for turns in patterns:
        result[f"ATS (alternate {turns_text(turns)})"] = average_update_flops(costs, replace(alternate, pattern=turns))
    return result


@contextmanager
def _saved_bytes(model: nn.Module) -> Iterator[dict[int, int]]:
    """Yield a dictionary that fills with the bytes of each storage that autograd keeps, by the storage's address.

    A storage that autograd keeps twice counts once. The model's weights do not count.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _embeddings(model: nn.Module) -> list[nn.Parameter]:
    names = ("embed_tokens.weight", "embed_positions.weight", "output_projection.weight")
    return [p for name, p in model.named_parameters() if name.endswith(names)]


def model_of_checkpoint(path: str) -> tuple[Any, nn.Module]:
    """Return the task and the model of a training; for translation with made-up dictionaries of the right sizes.

    These are enough to count the cost of the model, but not to translate.

    Raises:
        ValueError: the file is missing or unreadable, or this plugin's task did not write it.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a file")
    checkpoint = Checkpoint.open(path)
    header = checkpoint.state
    if checkpoint.task_name == IMAGE_TASK_NAME:
        task, model = load_image_network(checkpoint)
        recall_(task.cfg, header["task_state"])
        return task, model
    if checkpoint.partition is None:
        raise ValueError(f"{path} was not written by --task {TASK_NAME}; give its --arch and options instead")
    cfg = checkpoint_utils.load_checkpoint_to_cpu(path).get("cfg")
    # Make one dictionary for each size. If the model shares embeddings, both sides share one dictionary.
    sizes = [header["model"][f"{side}.embed_tokens.weight"].shape[0] for side in ("encoder", "decoder")]
    dictionaries = {size: numbered_dictionary(size) for size in sizes}
    # As fairseq does with a checkpoint's options: an option that did not exist when it was saved gets its default.
    options = merge_with_parent(PartitionedTranslationConfig(), cfg.task, remove_missing=True)
    recall_(options, header["task_state"])
    task = TranslationWithPartitionedModelTask(options, *(dictionaries[size] for size in sizes))
    task.load_state_dict({PARTITION_KEY: header["task_state"][PARTITION_KEY]})  # the dictionaries are made up
    return task, task.build_model(cfg.model, from_checkpoint=True)
