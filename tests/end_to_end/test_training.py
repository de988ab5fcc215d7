"""Train, resume and decode through the command line."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models.transformer import TransformerModel

from scripts.figures.board import main as draw_board
from scripts.figures.board import read_events
from tests.fixtures import ROOT
from tests.support import instrumented
from tests.support.checkpoints import check_mask, load
from tests.support.command_line import BLEU, PLUGIN, hypotheses, run, train, train_command

UPDATES = 9
EVERY_UPDATE = ["--save-interval-updates", "1", "--disable-validation"]


def events(output: str, kind: str) -> list[dict[str, Any]]:
    """The entries of ``--log-format json``."""
    lines = [line.split(f"| {kind} | ", 1)[1] for line in output.splitlines() if f"| {kind} | " in line]
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture(scope="module", params=["PartitionedRankLinear", "PartitionedLinear"])
def run_dir(request: pytest.FixtureRequest, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One alternating run with validation in its middle and at its end."""
    directory = tmp_path_factory.mktemp(request.param)
    options = ["--alternate", "--partitioned-linear-module-name", request.param, "--small-ratio", "0.25"]
    options += [*BLEU, "--log-format", "json", "--validate-interval-updates", "5", "--save-interval-updates", "5"]
    options += ["--tensorboard-logdir", str(directory / "tensorboard"), "--clip-norm", "0.5"]
    options += ["--criteria-interval", "3", "--criteria-by-layer-type"]
    options += ["--wandb-project", "wrote"]
    wandb = partial(instrumented.stand_in_for_wandb, directory / "wandb")
    process = instrumented.start(train_command(toy_data, directory, UPDATES, *options), directory / "log", wandb)
    assert instrumented.finish(process) == [0], (directory / "log").read_text()[-4000:]
    return directory


def test_both_networks_are_in_the_log(run_dir: Path) -> None:
    log = (run_dir / "log").read_text()
    updates = events(log, "train_inner")
    assert len(updates) == UPDATES
    for number, update in enumerate(updates):
        trained = "core" if number % 2 else "super"
        assert update[f"{trained}_gnorm"] == update["gnorm"]
        assert None not in update.values()
    even, odd = updates[4], updates[5]
    assert {"loss", "nll_loss", "ppl", "core_loss", "core_nll_loss", "core_ppl"} <= set(odd)
    assert even["loss"] != updates[2]["loss"], "a super update logs the super-network's loss"
    assert odd["loss"] == even["loss"], "a core update leaves it alone"
    assert odd["core_loss"] != even["core_loss"]
    assert float(odd["core_ppl"]) == pytest.approx(2 ** float(odd["core_nll_loss"]), rel=1e-2)

    validations = events(log, "valid")
    assert len(validations) == 2
    for validation in validations:
        names = {"loss", "nll_loss", "ppl", "bleu"}
        assert {f"valid_{name}" for name in names} | {f"valid_core_{name}" for name in names} <= set(validation)
        assert validation["valid_loss"] != validation["valid_core_loss"]
        assert "valid_gnorm" not in validation
        assert "valid_core_gnorm" not in validation


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_tensorboard_has_both_networks(run_dir: Path) -> None:
    written = b"".join(p.read_bytes() for p in (run_dir / "tensorboard").rglob("events*"))
    for name in (b"core_loss", b"core_gnorm", b"super_gnorm", b"core_bleu", b"c_align", b"q_t_encoder_fc1"):
        assert name in written


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_dashboards_have_the_log_of_every_network(run_dir: Path) -> None:
    """Each number of the log, at its update and under its name, in TensorBoard's event files and on its way to W&B."""
    log = (run_dir / "log").read_text()
    board = read_events(run_dir / "tensorboard")
    sent = [json.loads(line) for line in (run_dir / "wandb").read_text().splitlines()]
    assert sent[0] == ["init", "wrote"]
    logged_there = [entry for entry in sent if entry[0] != "init"]
    wandb = {(name, step): value for step, values in logged_there for name, value in values.items()}
    wanted = {
        "train_inner": {"loss", "core_loss", "gnorm", "core_gnorm", "super_gnorm", "c_align", "q_t_encoder_fc1"},
        "valid": {"loss", "core_loss", "nll_loss", "core_nll_loss", "ppl", "core_ppl", "bleu", "core_bleu"}
        | {"chrf", "core_chrf"},
    }
    for kind, names in wanted.items():
        logged = events(log, kind)
        prefix = "valid_" if kind == "valid" else ""
        for name in names:
            having = [entry for entry in logged if prefix + name in entry]  # the first update trains no core
            expected = {int(entry[f"{prefix}num_updates"]): float(entry[prefix + name]) for entry in having}
            assert len(expected) == len(logged) - (name.startswith("core_") and not prefix)
            assert dict(board[kind][name]) == pytest.approx(expected, rel=1e-3, abs=1e-3), name
            found = {step: value for (tag, step), value in wandb.items() if tag == f"{kind}/{name}"}
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), name
    assert not {"gnorm", "core_gnorm"} & board["valid"].keys()


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_tensorboards_own_reader_agrees(run_dir: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for kind, metrics in read_events(run_dir / "tensorboard").items():
        accumulated = reader.EventAccumulator(str(run_dir / "tensorboard" / kind))
        accumulated.Reload()
        assert metrics.keys() == set(accumulated.Tags()["scalars"])
        for name, points in metrics.items():
            assert points == [(event.step, event.value) for event in accumulated.Scalars(name)]


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_a_board_is_drawn(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_board([str(run_dir / "tensorboard"), "--output", str(tmp_path / "board.png")])
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        draw_board([str(tmp_path), "--output", str(tmp_path / "none.png")])
    assert "has no event files" in capsys.readouterr().err
    (event,) = (run_dir / "tensorboard/valid").glob("events*")
    copy = tmp_path / "valid" / event.name
    copy.parent.mkdir()
    copy.write_bytes(event.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_events(tmp_path)


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_criteria_are_in_the_log(run_dir: Path) -> None:
    """Measured in updates 0, 3 and 6; the others repeat the last value, and an epoch shows the mean."""
    log = (run_dir / "log").read_text()
    values = [float(update["c_align"]) for update in events(log, "train_inner")]
    assert len(values) == UPDATES
    for number, value in enumerate(values):
        assert value == values[number - number % 3]
    assert len(set(values)) == 3
    assert float(events(log, "train")[-1]["train_c_align"]) == pytest.approx(sum(values[::3]) / 3, rel=1e-4)
    last = events(log, "train_inner")[-1]
    for name in ("c_norm", "c_sim", "alpha_t", "q_t"):
        assert float(last[name]) > 0
        assert float(last[f"{name}_decoder_cross_attn_qk"]) > 0
    assert "c_norm" not in json.dumps(events(log, "valid"))


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_best_checkpoint_of_each_network(run_dir: Path) -> None:
    """Each file is the checkpoint of the validation where its network was best."""
    validations = events((run_dir / "log").read_text(), "valid")
    for file_name, metric in (("checkpoint_best.pt", "valid_loss"), ("checkpoint_best_core.pt", "valid_core_loss")):
        best = min(validations, key=lambda v, metric=metric: float(v[metric]))
        history = load(run_dir / file_name)["optimizer_history"]
        assert history[-1]["num_updates"] == int(best["valid_num_updates"])
    state = load(run_dir / "checkpoint_last.pt")["extra_state"]["TranslationWithPartitionedModelTask"]
    assert state["metric"] == "core_loss"
    assert state["best"] == pytest.approx(min(float(v["valid_core_loss"]) for v in validations))


def generate_command(run_dir: Path, data: Path) -> list[str]:
    checkpoint = str(run_dir / "checkpoint_last.pt")
    command = ["fairseq-generate", str(data), *PLUGIN, "--path", checkpoint, "--beam", "3", "--max-len-b", "12"]
    return [*command, "--cpu", "--max-tokens", "800", "--scoring", "sacrebleu", "--remove-bpe", "sentencepiece"]


@pytest.fixture(scope="module")
def decoded(run_dir: Path, toy_data: Path) -> tuple[str, str]:
    """What ``fairseq-generate`` prints of the super-network, without a level on the command line, and of the core."""
    command = generate_command(run_dir, toy_data)
    return run(command), run([*command, "--max-level", "1"])


def test_generate_decodes_either_network(decoded: tuple[str, str]) -> None:
    """No partition is repeated on the command line; both networks decode, and they are two networks."""
    full, core = decoded
    assert len(hypotheses(full)) == 40
    assert len(hypotheses(core)) == 40
    assert hypotheses(core) != hypotheses(full)
    for output in (full, core):
        assert "BLEU = " in output


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_generate_takes_levels_overrides_and_ensembles(run_dir: Path, decoded: tuple[str, str], toy_data: Path) -> None:
    command = generate_command(run_dir, toy_data)
    full, core = decoded
    explicit = run([*command, "--max-level", "2"])
    assert hypotheses(full) == hypotheses(explicit)
    overridden = run([*command, "--model-overrides", "{'max_level': 1}"])
    assert hypotheses(overridden) == hypotheses(core)
    assert "--max-level is 7; allowed" in run([*command, "--model-overrides", "{'max_level': 7}"], fails=True)

    ensemble = run([*command, "--path", f"{run_dir / 'checkpoint_last.pt'}:{run_dir / 'checkpoint_best.pt'}"])
    assert len(hypotheses(ensemble)) == 40


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_interactive_validate_and_from_pretrained(run_dir: Path, toy_data: Path) -> None:
    checkpoint = str(run_dir / "checkpoint_last.pt")
    sentence = "▁ba ▁be ▁bi"
    interactive = ["fairseq-interactive", str(toy_data), *PLUGIN, "--path", checkpoint, "--beam", "2", "--cpu"]
    by_level = {}
    for level, extra in ((2, []), (1, ["--max-level", "1"])):
        by_level[level] = hypotheses(run([*interactive, *extra], stdin=sentence + "\n"))[0]
        hub = TransformerModel.from_pretrained(
            str(run_dir), "checkpoint_last.pt", str(toy_data), user_dir=str(ROOT / "fairseq_ats"), max_level=level
        )
        tokens = hub.generate(hub.binarize(sentence), beam=2)[0]["tokens"]
        assert hub.string(tokens) == by_level[level]

    command = ["fairseq-validate", str(toy_data), *PLUGIN, "--path", checkpoint, "--cpu", "--max-tokens", "400"]
    command += ["--log-format", "json"]
    validation = events((run_dir / "log").read_text(), "valid")[-1]
    both = events(run(command), "valid")[-1]
    assert both["valid_loss"] == validation["valid_loss"]
    assert both["valid_core_loss"] == validation["valid_core_loss"]
    core = events(run([*command, "--max-level", "1"]), "valid")[-1]
    assert core["valid_loss"] == validation["valid_core_loss"]
    assert "valid_core_loss" not in core
    overridden = events(run([*command, "--model-overrides", "{'max_level': 1}"]), "valid")[-1]
    assert overridden["valid_loss"] == core["valid_loss"]


def test_resume_in_the_middle_is_exact(run_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    """Stopped after 5 updates, the next one a core update, and started again: the same bits as without a stop.

    The one run measures criteria and the other does not: the same bits all the same.
    """
    for name in ("checkpoint_last.pt", "checkpoint_best_core.pt"):
        assert (run_dir / name).is_file()
    interrupted = tmp_path / "resumed"
    interrupted.mkdir()
    shutil.copy(run_dir / "checkpoint_1_5.pt", interrupted / "checkpoint_last.pt")
    # No partition given: it comes from the checkpoint.
    options = ["--alternate", *BLEU, "--validate-interval-updates", "5", "--save-interval-updates", "5"]
    train(toy_data, interrupted, UPDATES, *options, "--clip-norm", "0.5")
    assert_same_state(load(interrupted / "checkpoint_last.pt"), load(run_dir / "checkpoint_last.pt"))
    best = [load(d / "checkpoint_best_core.pt")["model"] for d in (interrupted, run_dir)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[1])


def assert_same_state(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left["optimizer_history"][-1]["num_updates"] == right["optimizer_history"][-1]["num_updates"]
    assert set(left["model"]) == set(right["model"])
    for key, value in right["model"].items():
        assert torch.equal(left["model"][key], value), key
    adam = [state["last_optimizer_state"]["state"] for state in (left, right)]
    assert set(adam[0]) == set(adam[1])
    for index, entry in adam[1].items():
        assert adam[0][index]["step"] == entry["step"]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(adam[0][index][moment], entry[moment])


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
@pytest.mark.parametrize("reset", ["--reset-dataloader", "--reset-meters"])
def test_best_values_of_both_networks_are_reset_together(
    run_dir: Path, toy_data: Path, tmp_path: Path, reset: str
) -> None:
    """fairseq forgets its best value with the meters and not with the data loader; so does the plugin."""
    shutil.copy(run_dir / "checkpoint_1_5.pt", tmp_path / "checkpoint_last.pt")
    header = load(run_dir / "checkpoint_1_5.pt")["extra_state"]
    # A learning rate that spoils both networks: nothing after the restart can be the best.
    log = train(toy_data, tmp_path, 7, "--alternate", *BLEU, reset, "--lr", "5", "--log-format", "json")
    assert "did not log a 'loss' value" not in log, "the first update after the restart is a core update"
    spoilt = events(log, "valid")[-1]
    state = load(tmp_path / "checkpoint_last.pt")["extra_state"]
    ours = state["TranslationWithPartitionedModelTask"]["best"]
    if reset == "--reset-meters":
        assert (state["best"], ours) == (float(spoilt["valid_loss"]), float(spoilt["valid_core_loss"]))
    else:
        assert state["best"] == header["best"] < float(spoilt["valid_loss"])
        assert ours == header["TranslationWithPartitionedModelTask"]["best"] < float(spoilt["valid_core_loss"])
    kept = load(tmp_path / "checkpoint_best_core.pt")["optimizer_history"][-1]["num_updates"]
    assert kept == (7 if reset == "--reset-meters" else 5)


def test_resume_at_an_epoch_boundary_is_exact(toy_data: Path, tmp_path: Path) -> None:
    """Stock fairseq is not exact here: it makes an epoch's batches from the epoch in which the process began."""
    options = ["--alternate", "--disable-validation", "--max-tokens", "1500"]
    continuous, resumed = tmp_path / "continuous", tmp_path / "resumed"
    train(toy_data, continuous, 100, *options, "--max-epoch", "3")
    train(toy_data, resumed, 100, *options, "--max-epoch", "2")
    train(toy_data, resumed, 100, *options, "--max-epoch", "3")
    assert_same_state(load(resumed / "checkpoint_last.pt"), load(continuous / "checkpoint_last.pt"))


@pytest.mark.parametrize(
    "options",
    [
        ["--clip-norm", "0.1", "--weight-decay", "0.1", "--update-freq", "2"],
        ["--checkpoint-activations", "--store-ema"],
    ],
    ids=["clip, decay, accumulate", "recomputed activations, EMA"],
)
def test_mask_in_a_real_run(toy_data: Path, tmp_path: Path, options: list[str]) -> None:
    options = [*options, "--alternate", "--partitioned-linear-module-name", "PartitionedLinear", *EVERY_UPDATE]
    train(toy_data, tmp_path, 4, *options, "--small-ratio", "0.25", "--max-tokens", "200")
    check_mask(tmp_path, 4)


def test_hydra_train_in_bf16(toy_data: Path, tmp_path: Path) -> None:
    """fairseq-hydra-train accepts task and optimizer, and is fairseq's way to bf16 on CPU."""
    (tmp_path / "ats.yaml").write_text(
        f"""# @package _group_
common: {{user_dir: {ROOT}/fairseq_ats, cpu: true, bf16: true, seed: 7, no_progress_bar: true, log_interval: 1}}
task:
  _name: translation_with_partitioned_model
  data: {toy_data}
  partitioned_linear_module_name: PartitionedLinear
  small_ratio: 0.25
  alternate: true
optimizer: {{_name: adam_for_partitioned_model, alternate_lr_coef: 0.5}}
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
lr_scheduler: {{_name: fixed}}
model:
  _name: transformer
  encoder_layers: 1
  decoder_layers: 1
  encoder_embed_dim: 32
  decoder_embed_dim: 32
  encoder_ffn_embed_dim: 64
  decoder_ffn_embed_dim: 64
  encoder_attention_heads: 4
  decoder_attention_heads: 4
dataset: {{max_tokens: 400, disable_validation: true}}
optimization: {{lr: [0.03], max_update: 4}}
checkpoint: {{save_dir: {tmp_path}/run, save_interval_updates: 1}}
"""
    )
    run(["fairseq-hydra-train", "--config-dir", str(tmp_path), "--config-name", "ats", f"hydra.run.dir={tmp_path}"])
    states = [load(tmp_path / "run" / f"checkpoint_1_{n}.pt") for n in (1, 2, 3)]
    for name, after in states[1]["model"].items():
        if "extension_" in name:
            assert torch.equal(after, states[0]["model"][name]), name
            assert not torch.equal(after, states[2]["model"][name]), name


def test_core_alone(toy_data: Path, tmp_path: Path) -> None:
    """``--max-level 1`` trains, saves and decodes a core that never had an extension."""
    options = ["--max-level", "1", "--small-ratio", "0.25"]
    log = train(toy_data, tmp_path, 4, *options, "--log-format", "json")
    assert "valid_loss" in events(log, "valid")[-1]
    assert "core_loss" not in log
    state = load(tmp_path / "checkpoint_last.pt")
    assert not [key for key in state["model"] if "extension_" in key]
    assert [key for key in state["model"] if "core_" in key]
    assert not (tmp_path / "checkpoint_best_core.pt").exists()

    command = ["fairseq-generate", str(toy_data), *PLUGIN, "--path", str(tmp_path / "checkpoint_last.pt")]
    command += ["--cpu", "--max-tokens", "800", "--max-len-b", "8"]
    assert len(hypotheses(run(command))) == 40
    refused = run([*command, "--max-level", "2"], fails=True)
    assert "ValueError: --max-level is 2 and the checkpoint holds level 1 only" in refused
    alternating = train(toy_data, tmp_path, 6, "--alternate", fails=True)
    assert "ValueError: --alternate needs two networks and " in alternating


def test_the_core_can_be_the_best_checkpoint_metric(toy_data: Path, tmp_path: Path) -> None:
    options = ["--alternate", *BLEU, "--best-checkpoint-metric", "core_bleu", "--maximize-best-checkpoint-metric"]
    log = train(toy_data, tmp_path, 2, *options, "--log-format", "json", "--keep-best-checkpoints", "1")
    assert "valid_best_core_bleu" not in events(log, "valid")[0], "there is no best before the first"
    assert list(tmp_path.glob("checkpoint.best_core_bleu_*.pt"))
    assert (tmp_path / "checkpoint_best_super.pt").is_file()


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_another_partition_is_refused_at_start(run_dir: Path, toy_data: Path) -> None:
    before = (run_dir / "checkpoint_last.pt").stat().st_mtime_ns
    resumed = train(toy_data, run_dir, 20, "--alternate", "--small-ratio", "0.5", fails=True)
    assert "ValueError: --small-ratio is 0.5 and " in resumed
    assert "was trained with 0.25; leave the option out" in resumed
    command = ["fairseq-generate", str(toy_data), *PLUGIN, "--path", str(run_dir / "checkpoint_last.pt"), "--cpu"]
    decoded = run([*command, "--small-ratio", "0.125"], fails=True)
    assert "ValueError: --small-ratio is 0.125 and the checkpoint was trained with 0.25" in decoded
    narrowed = train(toy_data, run_dir, 20, "--max-level", "1", fails=True)
    assert "cannot resume both networks as the core alone" in narrowed
    assert (run_dir / "checkpoint_last.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("run_dir", ["PartitionedLinear"], indirect=True)
def test_checkpoints_that_cannot_be_used(run_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    whole = (run_dir / "checkpoint_last.pt").read_bytes()
    (tmp_path / "checkpoint_last.pt").write_bytes(whole[: len(whole) // 2])
    truncated = train(toy_data, tmp_path, 20, "--alternate", fails=True)
    assert "cannot be read as a checkpoint; it is truncated" in truncated
    generate = ["fairseq-generate", str(toy_data), *PLUGIN, "--cpu", "--path"]
    decoded = run([*generate, str(tmp_path / "checkpoint_last.pt")], fails=True)
    assert (
        f"{tmp_path / 'checkpoint_last.pt'} ({len(whole) // 2:,} bytes) cannot be read as a checkpoint; it is truncated"
        in decoded
    )

    stock = tmp_path / "stock"
    command = train_command(toy_data, stock, 1, "--disable-validation")
    command[command.index("translation_with_partitioned_model")] = "translation"
    run(command)
    message = "was not written by --task translation_with_partitioned_model"
    assert message in run([*generate, str(stock / "checkpoint_last.pt")], fails=True)
    assert message in train(toy_data, stock, 3, "--alternate", fails=True)


def test_missing_data_is_said_as_such(tmp_path: Path) -> None:
    output = train(tmp_path / "nowhere", tmp_path / "run", 2, fails=True)
    assert f"{tmp_path / 'nowhere'} is not a folder of binarised data" in output
    (tmp_path / "empty").mkdir()
    output = train(tmp_path / "empty", tmp_path / "run", 2, fails=True)
    assert f"{tmp_path / 'empty'} is not a folder of binarised data" in output
