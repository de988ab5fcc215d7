"""``--init-from``: a new run begins from a stock Transformer, and computes what that one computed."""

from __future__ import annotations

import copy
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_ats.architectures.importance import order_by_importance_
from fairseq_ats.modules.base import PartitionedModule
from fairseq_ats.modules.levels import use_level
from tests.checkpoints.test_reading import Code
from tests.end_to_end.test_training import events, load
from tests.fixtures import TINY_ARCH, TRAINING, with_our_attention
from tests.support import instrumented
from tests.support.command_line import run, train, train_command

Build = Callable[..., SimpleNamespace]

SMALL_WIDTH = ["--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25"]


def logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """In float64, without dropout, and with the plugin's attention: stock fairseq's softmax is in float32 always."""
    model = with_our_attention(copy.deepcopy(model)).double().eval()
    with torch.no_grad():
        return model(**batch["net_input"])[0]


def stock_model(build: Build, *options: str) -> SimpleNamespace:
    """As if trained: no two rows or biases alike, unlike initial ones."""
    built = build(*options, task="translation", optimizer="adam")
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return built


def save(path: Path, built: SimpleNamespace, **changes: Any) -> Path:
    """What fairseq saves, as far as a warm start reads it."""
    cfg = {"model": built.cfg.model, "task": {"data": built.cfg.task.data}}
    torch.save({"cfg": cfg, "model": built.model.state_dict(), "task_state": {}, **changes}, path)
    return path


@pytest.mark.parametrize(
    "arch",
    [
        [],
        ["--encoder-normalize-before", "--decoder-normalize-before", "--activation-fn", "gelu"],
        ["--arch", "transformer_iwslt_de_en", "--share-decoder-input-output-embed"],
    ],
    ids=["post-norm", "pre-norm", "embeddings shared in the decoder"],
)
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (SMALL_WIDTH, 1e-10),
        ([*SMALL_WIDTH, "--init-order", "importance"], 1e-10),
        (["--small-ratio", "0.25"], 1e-5),  # W is rounded to float32 when VU is taken from it
    ],
    ids=["small width", "ordered", "low rank"],
)
def test_the_super_network_starts_as_the_stock_model(
    build: Build, batch: dict[str, Any], tmp_path: Path, arch: list[str], options: list[str], tolerance: float
) -> None:
    stock = stock_model(build, *arch)
    checkpoint = save(tmp_path / "stock.pt", stock)
    expected = logits(stock.model, batch)
    warm = build(*arch, *options, "--init-from", str(checkpoint)).model
    torch.testing.assert_close(logits(warm, batch), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        as_it_is = stock.model.eval()(**batch["net_input"])[0]
        torch.testing.assert_close(warm.eval()(**batch["net_input"])[0], as_it_is, rtol=1e-5, atol=1e-5)
    cold = build(*arch, *[o for o in options if o not in ("--init-order", "importance")]).model
    assert (logits(cold, batch) - expected).abs().max() > 0.1
    with use_level(warm, 1):
        assert (logits(warm, batch) - expected).abs().max() > 0.01, "the core is not the super-network"


def test_the_core_alone_can_begin_from_a_stock_model(build: Build, batch: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "stock.pt", stock_model(build))
    both = build(*SMALL_WIDTH, "--init-from", str(checkpoint)).model
    alone = build(*SMALL_WIDTH, "--init-from", str(checkpoint), "--max-level", "1").model
    with use_level(both, 1):
        assert torch.equal(logits(alone, batch), logits(both, batch))


def test_low_rank_cores_are_best_approximations(build: Build, tmp_path: Path) -> None:
    """Eckart and Young: the error of the best approximation of rank k is the norm of the other singular values."""
    stock = stock_model(build)
    checkpoint = save(tmp_path / "stock.pt", stock)
    model = build("--small-ratio", "0.25", "--init-from", str(checkpoint)).model
    before = dict(stock.model.named_modules())
    for name, layer in model.named_modules():
        if isinstance(layer, PartitionedModule):
            full = before[name].weight.detach().double()
            error = (full - (layer.core_v @ layer.core_u).detach().double()).norm()
            values = torch.linalg.svdvals(full)
            torch.testing.assert_close(error, values[layer.rank :].norm(), rtol=1e-5, atol=1e-6)


def test_important_neurons_come_first(build: Build, batch: dict[str, Any]) -> None:
    stock = stock_model(build).model
    ordered = copy.deepcopy(stock)
    order_by_importance_(ordered)
    torch.testing.assert_close(logits(ordered, batch), logits(stock, batch), rtol=1e-10, atol=1e-10)

    layer, new = stock.encoder.layers[1], ordered.encoder.layers[1]
    scores = []
    for neuron in range(layer.fc1.out_features):
        incoming = sum(w**2 for w in [*layer.fc1.weight[neuron].tolist(), layer.fc1.bias[neuron].item()])
        outgoing = sum(w**2 for w in layer.fc2.weight[:, neuron].tolist())
        scores.append(incoming * outgoing)
    best_first = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    assert best_first != sorted(best_first)
    assert torch.equal(new.fc1.weight, layer.fc1.weight[best_first])
    assert torch.equal(new.fc1.bias, layer.fc1.bias[best_first])
    assert torch.equal(new.fc2.weight, layer.fc2.weight[:, best_first])
    assert torch.equal(new.fc2.bias, layer.fc2.bias)

    old, new = stock.decoder.layers[0].encoder_attn, ordered.decoder.layers[0].encoder_attn
    for head in range(4):
        rows = list(range(8 * head, 8 * head + 8))
        norms = {}
        for row in rows:
            norms[row] = 1.0
            for projection in (old.q_proj, old.k_proj):
                norms[row] *= sum(w**2 for w in [*projection.weight[row].tolist(), projection.bias[row].item()])
        best_first = sorted(rows, key=norms.__getitem__, reverse=True)
        for projection in ("q_proj", "k_proj"):
            moved, original = getattr(new, projection), getattr(old, projection)
            assert torch.equal(moved.weight[rows], original.weight[best_first])
            assert torch.equal(moved.bias[rows], original.bias[best_first])
    assert torch.equal(new.v_proj.weight, old.v_proj.weight)


def test_a_checkpoint_of_an_old_fairseq(build: Build, batch: dict[str, Any], tmp_path: Path) -> None:
    """Query, key and value projections in one matrix, options in ``args``, a file as torch wrote it before 1.6."""
    stock = stock_model(build)
    weights = stock.model.state_dict()
    for name in [name for name in weights if name.endswith(".q_proj.weight")]:
        attention = name.removesuffix(".q_proj.weight")
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"{attention}.{part}_proj.{kind}") for part in "qkv"]
            weights[f"{attention}.in_proj_{kind}"] = torch.cat(parts)
    # In this release too, the model's options are the flat Namespace of all options.
    state = {"args": Namespace(**vars(stock.cfg.model)), "model": weights}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    model = build(*SMALL_WIDTH, "--init-from", str(tmp_path / "old.pt")).model
    torch.testing.assert_close(logits(model, batch), logits(stock.model, batch), rtol=1e-10, atol=1e-10)


def test_a_checkpoint_in_half_precision(build: Build, batch: dict[str, Any], tmp_path: Path) -> None:
    stock = stock_model(build)
    with torch.no_grad():
        for parameter in stock.model.parameters():
            parameter.copy_(parameter.half())
    half = {name: value.half() for name, value in stock.model.state_dict().items()}
    model = build(*SMALL_WIDTH, "--init-from", str(save(tmp_path / "half.pt", stock, model=half))).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(model, batch), logits(stock.model, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init-from", "{missing}"], r"--init-from is .*missing\.pt, which is not a file"),
        (["--init-from", "{code}"], r"--init-from: .*code\.pt .* holds more than weights and options"),
        (["--init-from", "{partitioned}"], r"partitioned\.pt, which is partitioned already; .*--finetune-from-model"),
        (["--init-from", "{stock}", "--encoder-layers", "3"], r"another --arch.*Missing key.*encoder\.layers\.2"),
        (["--init-from", "{stock}", "--encoder-layers", "1"], r"another --arch.*Unexpected key.*encoder\.layers\.1"),
        (["--init-from", "{stock}", "--decoder-ffn-embed-dim", "40"], r"another --arch.*size mismatch for decoder"),
        (
            ["--init-from", "{stock}", "--decoder-attention-heads", "2"],
            "other options: --decoder-attention-heads is 4 there and 2 here",
        ),
        (["--init-from", "{stock}", "--activation-fn", "gelu"], "--activation-fn is relu there and gelu here"),
        (["--init-from", "{stock}", "--cross-self-attention"], "--cross-self-attention is False there and True here"),
        (["--init-from", "{untied}"], r"untied\.pt, where .*embed_tokens\.weight has weights of its own"),
        (["--init-from", "{stock}", "--init-order", "importance"], "--init-order is importance and .*RankLinear"),
        (["--init-order", "importance"], "--init-order is importance, which needs --init-from"),
        (["--restore-file", "{stock}"], r"was not written by --task .*; .* give --init-from .*stock\.pt instead"),
        (
            ["--finetune-from-model", "{stock}"],
            r"was not written by --task .*; .* give --init-from .*stock\.pt instead",
        ),
        (["--init-from", "a.pt", "--finetune-from-model", "b.pt"], r"--init-from is a\.pt and --finetune-from-model"),
        (["--init-from", "a.pt", "--restore-file", "b.pt"], r"--init-from is a\.pt and --restore-file is b\.pt"),
        (["--init-from", "a.pt", "--continue-once", "b.pt"], r"--init-from is a\.pt and --continue-once is b\.pt"),
    ],
)
def test_refused(build: Build, tmp_path: Path, options: list[str], message: str) -> None:
    stock = stock_model(build)
    files = {name: tmp_path / f"{name}.pt" for name in ("missing", "code", "partitioned", "stock", "untied")}
    save(files["stock"], stock)
    save(files["code"], stock, extra=Code(tmp_path / "ran"))
    save(files["partitioned"], stock, task_state={"partition": {"module_name": "PartitionedLinear"}})
    untied = stock.model.state_dict()
    untied["encoder.embed_tokens.weight"] = untied["encoder.embed_tokens.weight"] + 1
    save(files["untied"], stock, model=untied)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(*[option.format(**files) for option in options])
    assert not (tmp_path / "ran").exists()


def test_another_dictionary_of_the_same_size_is_refused(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = stock_model(build)
    other = tmp_path / "data"
    other.mkdir()
    for language in ("en", "de"):
        lines = (Path(stock.cfg.task.data) / f"dict.{language}.txt").read_text().splitlines()
        (other / f"dict.{language}.txt").write_text("".join(f"{line}\n" for line in reversed(lines)))
    cfg = {"model": stock.cfg.model, "task": Namespace(data=str(other))}
    checkpoint = save(tmp_path / "stock.pt", stock, cfg=cfg)
    with pytest.raises(ValueError, match=r"was trained with .*dict\.en\.txt, and that is not the dictionary of en"):
        build(*SMALL_WIDTH, "--init-from", str(checkpoint))
    assert "nothing but the size" not in caplog.text
    shutil.rmtree(other)
    build(*SMALL_WIDTH, "--init-from", str(checkpoint))
    assert "nothing but the size of this one of de was checked" in caplog.text


def test_warm_start_and_resume_from_the_command_line(toy_data: Path, tmp_path: Path) -> None:
    """From ``fairseq-train`` of stock fairseq: same validation loss, fresh optimizer; a resumed run needs no file."""
    stock = tmp_path / "stock"
    command = ["fairseq-train", str(toy_data), "--task", "translation", "--optimizer", "adam", *TINY_ARCH, *TRAINING]
    command += ["--max-update", "6", "--save-dir", str(stock), "--no-epoch-checkpoints", "--log-format", "json"]
    before = events(run(command), "valid")[-1]

    save_dir = tmp_path / "ats"
    options = [*SMALL_WIDTH, "--alternate", "--init-from", str(stock / "checkpoint_last.pt"), "--log-format", "json"]
    options += ["--init-order", "importance", "--validate-interval-updates", "1"]
    # The first update of this schedule has learning rate 0 and moves nothing.
    still = ["--warmup-init-lr", "0"]
    log = train(toy_data, save_dir, 1, *options, *still)
    after = events(log, "valid")[0]
    assert after["valid_loss"] == before["valid_loss"]
    assert after["valid_core_loss"] != after["valid_loss"]
    state = load(save_dir / "checkpoint_last.pt")
    assert [entry["num_updates"] for entry in state["optimizer_history"]] == [1]
    assert {float(s["step"]) for s in state["last_optimizer_state"]["state"].values()} == {1.0}
    assert state["extra_state"]["train_iterator"]["epoch"] == 1

    shutil.rmtree(stock)
    log = train(toy_data, save_dir, 2, *options, *still)
    assert "ignoring --init-from" in log
    assert load(save_dir / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == 2
    checkpoint_utils.load_model_ensemble_and_task([str(save_dir / "checkpoint_last.pt")])


def test_warm_start_in_fp16(toy_data: Path, build: Build, tmp_path: Path) -> None:
    stock = stock_model(build)
    checkpoint = save(tmp_path / "stock.pt", stock)
    options = [*SMALL_WIDTH, "--alternate", "--init-from", str(checkpoint), "--disable-validation"]
    options += [
        "--fp16",
        "--fp16-no-flatten-grads",
        "--fp16-init-scale",
        "4",
        "--lr-scheduler",
        "fixed",
        "--lr",
        "0",
    ]
    command = train_command(toy_data, tmp_path / "ats", 1, *options)
    drop = [command.index(name) for name in ("--warmup-updates", "--warmup-init-lr")]
    command = [word for i, word in enumerate(command) if i not in drop and i - 1 not in drop]
    process = instrumented.start(command, tmp_path / "log", instrumented.take_this_for_a_gpu)
    assert instrumented.finish(process) == [0], (tmp_path / "log").read_text()[-2000:]
    weights = load(tmp_path / "ats" / "checkpoint_last.pt")["model"]
    expected = stock.model.state_dict()["encoder.layers.0.self_attn.v_proj.weight"].half()
    assert torch.equal(weights["encoder.layers.0.self_attn.v_proj.weight"], expected)
    head = stock.model.state_dict()["encoder.layers.0.self_attn.q_proj.weight"].half().unflatten(0, (4, 8))[:, :2]
    assert torch.equal(weights["encoder.layers.0.self_attn.q_proj.core_weight"], head.flatten(0, 1))
