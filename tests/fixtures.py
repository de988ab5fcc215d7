"""Shared fixtures: a toy corpus on disk, and models and tasks built from real command lines in this process."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from filelock import FileLock

import fairseq_ats  # noqa: F401  registers the task and the optimizer
from fairseq_ats.architectures.transformer import attentions
from fairseq_ats.data import binarise as binarise_module
from fairseq_ats.data.binarise import Binarisation, binarise
from fairseq_ats.data.image_sources import prepare
from fairseq_ats.modules import PartitionedMultiheadAttention
from tests.support import quick_hydra

quick_hydra.remember_compositions()

# No deadline: the first call of a torch function can take seconds. Derandomised: the same examples in every run.
hypothesis.settings.register_profile("fairseq_ats", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fairseq_ats")

ROOT = Path(__file__).resolve().parents[1]
OUR_TASK = "translation_with_partitioned_model"
OUR_OPTIMIZER = "adam_for_partitioned_model"

TINY_ARCH = """--arch transformer --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 32 --decoder-embed-dim 32
    --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 48 --encoder-attention-heads 4 --decoder-attention-heads 4
    --share-all-embeddings --dropout 0.1""".split()
# Of ``two_trained_networks``, and of trainings that go on from there.
OF_TRAINED = """--encoder-layers 1 --decoder-layers 1 --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256
    --max-tokens 800 --lr 0.006 --warmup-updates 30 --disable-validation""".split()
# Without a buffer: its thread may still run when Python exits, and then ends the process with "terminate called without
# an active exception" (fairseq/data/iterators.py, BackgroundConsumer). Without workers of the data loader, which take
# as long to come and go as a training of these tests; those of the scripts have them.
TRAINING = """--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --lr 0.003 --lr-scheduler inverse_sqrt
    --warmup-updates 10 --warmup-init-lr 1e-3 --max-tokens 400 --cpu --no-progress-bar --log-interval 1
    --seed 7 --data-buffer-size 0 --num-workers 0""".split()


def pytest_collection_finish() -> None:
    """What is imported is there to stay: the garbage collection, a tenth of all time, need not look at it again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _first_log_levels() -> dict[logging.Logger, int]:
    loggers = [logging.getLogger(name) for name in ("", "fairseq", "fairseq_ats", "sacrebleu")]
    return {one: one.level for one in loggers}


@pytest.fixture(autouse=True)
def _log_levels(_first_log_levels: dict[logging.Logger, int]) -> None:
    """As at first: a command in this process, of a test or of a module's fixture, makes libraries quiet for good."""
    for one, level in _first_log_levels.items():
        one.setLevel(level)


def made_by_one_worker(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that all workers of pytest-xdist share; the first one that needs it makes it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, whole = root / name, root / f"{name}.whole"
    with FileLock(root / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_by_one_worker(tmp_path_factory, "toy", make_toy_data) / "bin"


def make_toy_data(folder: Path) -> None:
    """Write binarised data to ``folder/bin``: the target is the source reversed, in other letters."""
    raw = folder / "raw"
    raw.mkdir()
    generator = random.Random(3)
    words = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    for split, count in (("train", 600), ("valid", 40), ("test", 40)):
        sources = [[generator.choice(words) for _ in range(generator.randint(3, 9))] for _ in range(count)]
        targets = [[word.upper() for word in reversed(source)] for source in sources]
        for language, sentences in (("en", sources), ("de", targets)):
            (raw / f"{split}.{language}").write_text("".join(" ".join(s) + "\n" for s in sentences))
    with pytest.MonkeyPatch.context() as patch:
        fork_preprocess(patch)
        binarise(raw, folder / "bin", Binarisation("en", "de", vocabulary=180), say=lambda text: None, workers=1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits, prepared."""
    folder = tmp_path_factory.mktemp("images") / "digits"
    prepare("digits", folder, None, None, say=lambda text: None)
    return folder


@pytest.fixture(scope="session")
def parse(toy_data: Path) -> Callable[..., Any]:
    """``parse("--alternate", ...)`` → fairseq's configuration, through fairseq's own option parser.

    Each command line is parsed once: hydra takes half a second for it. Each call has a copy of its own.
    """
    parsed: dict[tuple[str, ...], bytes] = {}

    def parse(
        *extra: str,
        task: str = OUR_TASK,
        optimizer: str = OUR_OPTIMIZER,
        arch: Sequence[str] = TINY_ARCH,
        training: Sequence[str] = TRAINING,
    ) -> Any:
        arguments = [str(toy_data), "--task", task, "--optimizer", optimizer, *training, *arch, *extra]
        if tuple(arguments) not in parsed:
            parser = options.get_training_parser()
            namespace = options.parse_args_and_arch(parser, input_args=arguments)
            parsed[tuple(arguments)] = pickle.dumps(convert_namespace_to_omegaconf(namespace))
        return pickle.loads(parsed[tuple(arguments)])  # copy.deepcopy would leave the model's namespace shared

    return parse


@pytest.fixture(scope="session")
def build(parse: Callable[..., Any]) -> Callable[..., SimpleNamespace]:
    """``build("--small-ratio", "0.25")`` → configuration, task and model of that command line."""

    def build(*extra: str, **choices: Any) -> SimpleNamespace:
        cfg = parse(*extra, **choices)
        torch.manual_seed(cfg.common.seed)
        fairseq_task = tasks.setup_task(cfg.task)
        model = fairseq_task.build_model(cfg.model)
        criterion = fairseq_task.build_criterion(cfg.criterion)
        return SimpleNamespace(cfg=cfg, task=fairseq_task, model=model, criterion=criterion)

    return build


@pytest.fixture(scope="session")
def two_trained_networks(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an alternating run whose small networks, with small-width cores, translate some of the toy corpus."""
    from tests.support.command_line import train  # which imports this module

    options = ["--alternate", "--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25"]
    options += [*OF_TRAINED, "--save-interval-updates", "101", "--log-interval", "50"]
    return made_by_one_worker(tmp_path_factory, "trained", lambda folder: train(toy_data, folder, 102, *options))


@pytest.fixture(scope="session")
def onnx_core(two_trained_networks: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The core of ``two_trained_networks`` as a folder of format onnx, verified on the test set.

    Beside it the folder ``exported`` has the graphs as they were exported.
    """
    pytest.importorskip("onnxruntime")
    from fairseq_ats.cli.convert import main
    from fairseq_ats.convert.formats import onnx

    source, checked = str(two_trained_networks / "checkpoint_last.pt"), ["--verify-on", str(toy_data / "test.en")]
    export = onnx.export_graphs

    def convert(folder: Path) -> None:
        def export_and_keep(network: Any, graphs: Path) -> None:
            export(network, graphs)
            shutil.copytree(graphs, folder / "exported")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx, "export_graphs", export_and_keep)
            output = str(folder / "core")
            main([source, "--level", "core", "--to", "onnx", "--output", output, *checked, "--beam", "3"])

    return made_by_one_worker(tmp_path_factory, "onnx", convert) / "core"


@pytest.fixture
def quick_preprocess(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, ``fairseq-ats binarise`` forks ``fairseq-preprocess`` where fairseq is imported already."""
    fork_preprocess(monkeypatch)


def fork_preprocess(patch: pytest.MonkeyPatch) -> None:
    from tests.support.command_line import start  # which imports this module

    def forked(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        process = start(["fairseq-preprocess", *command[2:]])
        output = process.wait()
        return subprocess.CompletedProcess(command, process.returncode, "", output)

    patch.setattr(binarise_module, "subprocess", SimpleNamespace(run=forked))


@pytest.fixture(params=["PartitionedRankLinear", "PartitionedLinear"])
def module_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def first_batch(parse: Callable[..., Any]) -> bytes:
    task = tasks.setup_task(parse().task)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return pickle.dumps(dataset.collater([dataset[i] for i in range(8)]))


@pytest.fixture
def batch(first_batch: bytes) -> dict[str, Any]:
    """One mini-batch of the toy corpus, with padding in source and target."""
    return pickle.loads(first_batch)


def with_our_attention(stock: torch.nn.Module) -> torch.nn.Module:
    """A stock model whose attentions are ours and whose linear layers are whole."""
    for attention in attentions(stock):
        PartitionedMultiheadAttention.convert_(attention)
    return stock
