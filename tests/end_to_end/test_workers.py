"""Several workers: every one of them trains the same networks as one worker would, whatever happens to one of them."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import instrumented
from tests.support.checkpoints import differences, load
from tests.support.command_line import train_command
from tests.support.updates import check_in_step

# Five batches: of two workers, one has none left for the third update.
ONE_EPOCH = ["--alternate", "--small-ratio", "0.25", "--max-tokens", "1200", "--dropout", "0"]
ONE_EPOCH += ["--max-epoch", "1", "--disable-validation", "--no-save", "--weight-decay", "0.1"]


OF_NEURONS = "encoder.layers.0.fc1.extension_weight"


def train(
    data: Path,
    folder: Path,
    *options: str,
    base: Sequence[str] = ONE_EPOCH,
    of_all: Sequence[instrumented.Change] = (),
    of_last: Sequence[instrumented.Change] = (),
) -> list[list[dict[str, Any]]]:
    """What each of two workers recorded; ``of_last`` is done to the second only."""
    command = train_command(data, folder / "run", 100, *base, *options)
    record = [partial(instrumented.record_updates, folder / f"records{rank}") for rank in (0, 1)]
    changes = [record[0], *of_all], [record[1], *of_all, *of_last]
    codes = instrumented.finish(*instrumented.start_workers(command, folder, *changes))
    assert codes == [0, 0], "".join((folder / f"{rank}.log").read_text()[-2000:] for rank in (0, 1))
    return [instrumented.recorded(folder / f"records{rank}") for rank in (0, 1)]


def alone(data: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    """What one worker recorded that takes two batches for each update."""
    command = train_command(data, folder / "alone", 100, *options, "--update-freq", "2")
    process = instrumented.start(command, folder / "log", partial(instrumented.record_updates, folder / "records"))
    assert instrumented.finish(process) == [0], (folder / "log").read_text()[-2000:]
    return instrumented.recorded(folder / "records")


@pytest.fixture(scope="module")
def one_worker(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return alone(toy_data, tmp_path_factory.mktemp("one"), *ONE_EPOCH)


def check_same(records: list[dict[str, Any]], expected: list[dict[str, Any]], noise: str = "") -> None:
    """To float rounding; ``noise`` finds parameters whose gradient is rounding alone."""
    for mine, theirs in zip(records, expected, strict=True):
        for name, tensors in theirs["moved"].items():
            if noise and re.search(noise, name):
                continue
            for kind, value in tensors.items():
                torch.testing.assert_close(mine["moved"][name][kind], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_workers_are_one_with_twice_the_batches(
    one_worker: list[dict[str, Any]], toy_data: Path, tmp_path: Path, backend: str
) -> None:
    """To float rounding, over a whole epoch of an odd number of batches; c10d and no_c10d are other names of these."""
    options, changes = ["--ddp-backend", backend], []
    if backend == "pytorch_ddp":
        options, changes = [*options, "--find-unused-parameters"], [instrumented.use_pytorch_ddp_on_cpu]
    workers = train(toy_data, tmp_path, *options, of_all=changes)
    assert [record["empty"] for record in workers[1]] == [[False], [False], [True]]
    check_in_step(workers, [1, 2, 3])
    check_same(workers[0], one_worker)


@pytest.mark.parametrize(
    ("scheme", "arguments"),
    [
        ("dropout", '{"keep_prob": 0.5}'),
        ("extragradient", '{"step": 0.1}'),
        ("mast", '{"sketch": "permutation", "batches": 2, "shift": "start"}'),
    ],
    ids=["dropout", "extragradient", "mast"],
)
def test_partial_updates_of_two_workers(toy_data: Path, tmp_path: Path, scheme: str, arguments: str) -> None:
    """Both draw the same neurons, or each its own; both gradients of a step are reduced, and clipped."""
    options = [*ONE_EPOCH[1:], "--scheme", scheme, "--scheme-args", arguments, "--clip-norm", "0.5"]
    options += ["--partitioned-linear-module-name", "PartitionedLinear"]
    workers = train(toy_data, tmp_path, "--ddp-backend", "legacy_ddp", base=options)
    for records in workers:
        check_same(records, alone(toy_data, tmp_path, *options) if records is workers[0] else workers[0])


def test_one_worker_runs_out_of_memory(toy_data: Path, tmp_path: Path) -> None:
    """In a core update that is not the first; the other's batch makes it."""
    out_of_memory = partial(instrumented.run_out_of_memory, 3)
    options = ["--ddp-backend", "legacy_ddp", "--max-tokens", "600", "--max-update", "4"]
    workers = train(toy_data, tmp_path, *options, of_last=[out_of_memory])
    check_in_step(workers, [1, 2, 3, 4])
    assert "skipping a batch" in (tmp_path / "1.log").read_text()


def test_one_worker_overflows(toy_data: Path, tmp_path: Path) -> None:
    """In fp16, in a core update: no worker makes it, and the next one trains the core again."""
    options = ["--ddp-backend", "legacy_ddp", "--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"]
    overflow = partial(instrumented.overflow, 1)
    workers = train(toy_data, tmp_path, *options, of_all=[instrumented.take_this_for_a_gpu], of_last=[overflow])
    check_in_step(workers, [1, 1, 2])


# Rounds of 2 updates in epochs of 3: a validation and a save within the second round.
IST = [*ONE_EPOCH[1:-6], "--max-epoch", "2", "--weight-decay", "0.1", "--no-epoch-checkpoints", "--clip-norm", "0.5"]
IST += "--scheme ist --parts 2 --local-updates 2 --shared-parameters synchronous".split()
IST += ["--partitioned-linear-module-name", "PartitionedLinear"]


def test_independent_subnets(toy_data: Path, tmp_path: Path) -> None:
    """Two workers are one with two micro-batches; what neurons own travels in exchanges alone.

    One worker fails, or is killed in an exchange or in a save; both end, and go on from the save within a round, bit
    for bit.
    """
    parts, folder = ["--ddp-backend", "legacy_ddp"], tmp_path / "whole"
    folder.mkdir()
    collectives = partial(instrumented.record_collectives, tmp_path / "collectives.json")
    workers = train(toy_data, folder, *parts, base=IST, of_all=[collectives])
    single = alone(toy_data, tmp_path, *IST)
    assert [record["updates"] for record in single] == [1, 2, 3, 4, 5, 6]
    for records in workers:
        check_same(records[1::2], single[1::2], noise=r"k_proj\..*_bias")
    assert not torch.equal(*(records[0]["moved"][OF_NEURONS]["weight"] for records in workers))

    moved = {name: tensors["weight"].numel() for name, tensors in single[0]["moved"].items()}
    owned = sum(size for name, size in moved.items() if re.search(r"(fc1|[qk]_proj)\.|fc2\..*_weight", name))
    sent = json.loads((tmp_path / "collectives.json").read_text())
    # Three round ends, and the save: weights and two moments of half of the neurons.
    assert [size for name, size in sent if name == "all_gather"] == [3 * owned // 2] * 4
    large = [size for name, size in sent if name == "all_reduce" and size > 100]
    assert large == [sum(moved.values()) - owned] * 6

    command, run = train_command(toy_data, tmp_path / "failed", 100, *IST, *parts), folder / "run"
    failing = partial(instrumented.fail, 4)
    codes = instrumented.finish(*instrumented.start_workers(command, tmp_path, [failing], []))
    assert 0 not in codes
    assert "as if" in (tmp_path / "0.log").read_text()
    killed = [-signal.SIGKILL, 1]
    codes = instrumented.finish(*instrumented.start_workers(command, tmp_path, [], [instrumented.kill_in_exchange]))
    assert codes == killed[::-1]
    kill_in_save = partial(instrumented.kill_in_write, 1)
    assert instrumented.finish(*instrumented.start_workers(command, tmp_path, [kill_in_save], [])) == killed
    assert instrumented.finish(*instrumented.start_workers(command, tmp_path, [], [])) == [0, 0]
    assert "(epoch 2 @ 3 updates)" in (tmp_path / "0.log").read_text()
    assert not differences(load(tmp_path / "failed/checkpoint_last.pt"), load(run / "checkpoint_last.pt"))
