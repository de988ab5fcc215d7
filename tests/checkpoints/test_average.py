"""Averaging of checkpoints: which ones, and what becomes of them."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_ats.checkpoints.reading import read_checked
from fairseq_ats.cli import average
from tests.checkpoints.test_reading import Code
from tests.end_to_end.test_training import events, load
from tests.support.checkpoints import differences
from tests.support.command_line import PLUGIN, hypotheses, run, train
from tests.support.disk import no_room

PARTITION = {"module_name": "PartitionedLinear", "small_ratio": 0.25, "max_level": 2}


def checkpoint(path: Path, updates: int, weights: dict[str, Any] | None = None, **changes: Any) -> Path:
    """What fairseq-train writes, as far as averaging reads it."""
    table = torch.full((2, 3), float(updates))
    extra_state = {"train_iterator": {"epoch": 1}, "val_loss": changes.pop("val_loss", None)}
    ours = {"metric": "core_loss", "best": 0.0, "value": changes.pop("core", None)}
    state = {
        "cfg": {
            "model": changes.pop("options", Namespace(encoder_attention_heads=4)),
            "task": changes.pop("task", {"source_lang": "en", "target_lang": "de"}),
            "checkpoint": {
                "best_checkpoint_metric": changes.pop("metric", "loss"),
                "maximize_best_checkpoint_metric": changes.pop("maximize", False),
                "checkpoint_suffix": changes.pop("suffix", ""),
            },
        },
        "model": weights or {"encoder.embed": table, "decoder.embed": table},
        "optimizer_history": [{"num_updates": updates}],
        "task_state": {"partition": PARTITION},
        "extra_state": extra_state | {"TranslationWithPartitionedModelTask": ours},
        "last_optimizer_state": {"state": torch.ones(1000)},
    }
    torch.save(state | changes, path)
    return path


def averaged(*arguments: object) -> dict[str, Any]:
    output = Path(str(arguments[-1]))
    average.main([*map(str, arguments[:-1]), "--output", str(output)])
    return load(output)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        average.main(list(map(str, arguments)))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_safetensors_in_and_out(tmp_path: Path) -> None:
    one, other = checkpoint(tmp_path / "1.pt", 1), checkpoint(tmp_path / "3.pt", 3)
    expected = averaged(one, other, tmp_path / "mean.pt")
    safe = tmp_path / "mean.safetensors"
    average.main([str(one), str(other), "--output", str(safe)])
    assert not differences(read_checked(str(safe)), expected)
    assert averaged(safe, other, tmp_path / "again.pt")["model"]["encoder.embed"].unique().tolist() == [2.5]
    safe.write_bytes(safe.read_bytes()[:-1])
    with pytest.raises(SystemExit):
        average.main([str(safe), str(other), "--output", str(tmp_path / "none.pt")])
    assert not (tmp_path / "none.pt").exists()


@pytest.mark.parametrize("name", ["mean.pt", "mean.safetensors"])
def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    a = checkpoint(tmp_path / "a.pt", 1, {"w": torch.zeros(100_000)})
    with no_room():
        said = refusal(capsys, a, "--output", tmp_path / name)
    assert said.startswith(f"fairseq-ats-average: error: {tmp_path / name} cannot be written: ")
    assert "File too large" in said
    assert list(tmp_path.iterdir()) == [a]


def test_mean_in_float64(tmp_path: Path) -> None:
    """float32 sums of these would lose the small ones, and float16 sums would overflow."""
    values = [1.0, 3e7, 1.0, 1.0]
    for number, value in enumerate(values):
        weights = {"single": torch.tensor([value]), "half": torch.tensor([6e4]).half(), "count": torch.tensor(number)}
        checkpoint(tmp_path / f"{number}.pt", number, weights)
    state = averaged(*(tmp_path / f"{number}.pt" for number in range(4)), tmp_path / "mean.pt")
    assert state["model"]["single"] == torch.tensor(30000003.0 / 4)
    assert torch.equal(state["model"]["half"], torch.tensor([6e4]).half())
    assert state["model"]["count"] == 3, "integers are the last one's"
    assert {value.dtype for value in state["model"].values()} == {torch.float32, torch.float16, torch.int64}


def test_what_is_kept(tmp_path: Path) -> None:
    for updates in (1, 2):
        checkpoint(tmp_path / f"{updates}.pt", updates, val_loss=1.0)
    state = averaged(tmp_path / "1.pt", tmp_path / "2.pt", tmp_path / "mean.pt")
    assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), 1.5))
    assert state["model"]["encoder.embed"].data_ptr() == state["model"]["decoder.embed"].data_ptr()
    assert state["task_state"] == {"partition": PARTITION}
    assert state["optimizer_history"] == [{"num_updates": 2}]
    assert "last_optimizer_state" not in state
    assert state["extra_state"] == {"train_iterator": {"epoch": 1}, "average_of": ["1.pt", "2.pt"]}
    assert oct((tmp_path / "mean.pt").stat().st_mode) == oct((tmp_path / "1.pt").stat().st_mode)


def test_last_checkpoints(tmp_path: Path) -> None:
    for epoch in (8, 9, 10, 11):
        checkpoint(tmp_path / f"checkpoint{epoch}.pt", epoch * 10)
    for updates in (95, 105):
        checkpoint(tmp_path / f"checkpoint_1_{updates}.pt", updates)
    for end in (110, 100):  # the run ended with epoch 11; a copy of an earlier state lies there
        checkpoint(tmp_path / "checkpoint_last.pt", end)
        of_epochs = averaged(tmp_path, "--last-epochs", "3", tmp_path / "mean.pt")
        assert of_epochs["extra_state"]["average_of"] == ["checkpoint9.pt", "checkpoint10.pt", "checkpoint11.pt"]
    checkpoint(tmp_path / "checkpoint_last.pt", 999)
    of_updates = averaged(tmp_path, "--last-updates", "2", tmp_path / "mean.pt")
    assert of_updates["extra_state"]["average_of"] == ["checkpoint_1_95.pt", "checkpoint_1_105.pt"]


def test_an_epoch_within_which_the_run_ended_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "checkpoint_last.pt", 29)
    assert "has 0 checkpoint(s) of an epoch" in refusal(
        capsys, tmp_path, "--last-epochs", 1, "--output", tmp_path / "mean.pt"
    )
    for epoch in (1, 2):
        checkpoint(tmp_path / f"checkpoint{epoch}.pt", epoch * 10)
    state = averaged(tmp_path, "--last-epochs", "2", tmp_path / "mean.pt")
    assert state["extra_state"]["average_of"] == ["checkpoint2.pt", "checkpoint_last.pt"]
    assert state["optimizer_history"] == [{"num_updates": 29}]
    assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), 24.5))


@pytest.mark.parametrize("metric", ["loss", "core_loss"])
def test_best_checkpoints_are_chosen_by_network(tmp_path: Path, metric: str) -> None:
    """The core was best when the super-network was worst; the same update under two names counts once."""
    super_loss = {1: 5.0, 2: 4.0, 3: 3.0, 4: None}
    core_loss = {1: 2.0, 2: 3.0, 3: 4.0, 4: None}
    for updates in super_loss:
        followed, other = (super_loss, core_loss) if metric == "loss" else (core_loss, super_loss)
        state = {"val_loss": followed[updates], "core": other[updates], "metric": metric}
        checkpoint(tmp_path / f"checkpoint{updates}.pt", updates, **state)
    shutil.copy(tmp_path / "checkpoint3.pt", tmp_path / "checkpoint_best.pt")
    shutil.copy(tmp_path / "checkpoint1.pt", tmp_path / f"checkpoint.best_{metric}_2.0000.pt")
    for network, expected in (([], 2.5), (["--network", "super"], 2.5), (["--network", "core"], 1.5)):
        state = averaged(tmp_path, "--best", "2", *network, tmp_path / "checkpoint_average.pt")
        assert torch.equal(state["model"]["encoder.embed"], torch.full((2, 3), expected)), network


def test_the_best_may_be_the_highest(tmp_path: Path) -> None:
    for updates, bleu in ((1, 30.0), (2, 31.0), (3, 29.0)):
        checkpoint(tmp_path / f"checkpoint{updates}.pt", updates, val_loss=bleu, metric="bleu", maximize=True)
    state = averaged(tmp_path, "--best", "1", tmp_path / "mean.pt")
    assert state["extra_state"]["average_of"] == ["checkpoint2.pt"]


def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    a = checkpoint(run_dir / "checkpoint1.pt", 1, val_loss=1.0)
    output = ["--output", tmp_path / "mean.pt"]
    assert "--last-epochs is 2 and" in refusal(capsys, run_dir, "--last-epochs", 2, *output)
    assert "--last-updates is 1 and" in refusal(capsys, run_dir, "--last-updates", 1, *output)
    assert "has 1 checkpoint(s) that were validated" in refusal(capsys, run_dir, "--best", 2, *output)
    no_core = refusal(capsys, run_dir, "--best", 1, "--network", "core", *output)
    assert "has 0 checkpoint(s) that were validated" in no_core
    assert "argument --best: 0 is not allowed" in refusal(capsys, run_dir, "--best", 0, *output)
    assert "is a folder; add --last-epochs" in refusal(capsys, run_dir, *output)
    assert "choose from the folder of one run" in refusal(capsys, a, "--best", 1, *output)
    suffix = refusal(capsys, a, "--checkpoint-suffix", "_x", *output)
    assert "--checkpoint-suffix is _x, which needs --last-epochs, --last-updates or --best" in suffix
    assert "--network is core, which needs --best" in refusal(capsys, a, "--network", "core", *output)
    assert "no.pt is not a file" in refusal(capsys, a, tmp_path / "no.pt", *output)
    assert "is not a folder" in refusal(capsys, a, "--output", tmp_path / "nowhere" / "mean.pt")

    other = tmp_path / "other.pt"
    checkpoint(other, 2, task_state={"partition": PARTITION | {"small_ratio": 0.5}})
    assert "different partitions: Partition(module_name='PartitionedLinear'" in refusal(capsys, a, other, *output)
    checkpoint(other, 2, task_state={})
    assert "different partitions: Partition" in refusal(capsys, a, other, *output)
    checkpoint(other, 2, weights={"encoder.embed": torch.zeros(2, 3), "decoder.embed": torch.zeros(2, 2)})
    assert "hold different models: decoder.embed is not the same" in refusal(capsys, a, other, *output)
    checkpoint(other, 2, options=Namespace(encoder_attention_heads=2))
    assert "different options: --encoder-attention-heads is 4 there and 2" in refusal(capsys, a, other, *output)
    checkpoint(other, 2, code=Code(tmp_path / "ran"))
    assert "holds more than weights and options" in refusal(capsys, a, other, *output)
    assert not (tmp_path / "ran").exists()
    torch.save({"model": {}}, other)
    assert "was not written by fairseq-train" in refusal(capsys, a, other, *output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pt", "run"], "something was left behind"


EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")


def of_embeddings(*numbers: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((3, 2), number) for name, number in zip(EMBEDDINGS, numbers, strict=True)}


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            {"task_state": {"partition": PARTITION, "dictionaries": {"source": "1", "target": "2"}}},
            {"task_state": {"partition": PARTITION, "dictionaries": {"source": "1", "target": "3"}}},
            "were trained with different dictionaries",
        ),
        (
            {},
            {"task": {"source_lang": "de", "target_lang": "en"}},
            "translate different languages: --source-lang is en and de",
        ),
        (
            {"weights": of_embeddings(1.0, 1.0, 1.0)},
            {"weights": of_embeddings(1.0, 2.0, 2.0)},
            "hold different models: decoder.embed_tokens.weight and encoder.embed_tokens.weight are one tensor in one",
        ),
        (
            {"weights": of_embeddings(1.0, 2.0, 2.0)},
            {"weights": of_embeddings(1.0, 2.0, 3.0)},
            "decoder.embed_tokens.weight and decoder.output_projection.weight are one tensor in one of them only",
        ),
        (  # what fairseq-hydra-train saves: the options that were given
            {"options": {"_name": "transformer", "encoder_ffn_embed_dim": 4096}},
            {"options": {"_name": "transformer_wmt_en_de_big_t2t", "encoder": {"attention_heads": 8}}},
            "different options: --decoder-attention-heads is 8 there and 16 here; --encoder-normalize-before is False",
        ),
    ],
)
def test_checkpoints_of_different_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    """All of the same shapes."""
    paths = [checkpoint(tmp_path / f"{n}.pt", n, **changes) for n, changes in enumerate((one, other))]
    assert message in refusal(capsys, *paths, "--output", tmp_path / "mean.pt")


def test_what_one_run_may_save_in_two_ways(tmp_path: Path) -> None:
    """By an older version, without languages, and on a GPU, where each name of a tensor has a copy of its own."""
    one = torch.ones(3, 2)
    dictionaries = {"source": "1", "target": "2"}
    task_state = {"partition": PARTITION, "dictionaries": dictionaries}
    checkpoint(tmp_path / "1.pt", 1, dict.fromkeys(EMBEDDINGS, one), task_state=task_state)
    checkpoint(tmp_path / "2.pt", 2, of_embeddings(3.0, 3.0, 3.0), task={"source_lang": None, "target_lang": None})
    state = averaged(tmp_path / "1.pt", tmp_path / "2.pt", tmp_path / "mean.pt")
    assert all(torch.equal(state["model"][name], torch.full((3, 2), 2.0)) for name in EMBEDDINGS)


def test_networks_taken_out_do_not_count(tmp_path: Path) -> None:
    """``--to core`` and ``--to fairseq``, written beside the checkpoints of the run."""
    checkpoint(tmp_path / "checkpoint1.pt", 1, val_loss=2.0, core=2.0)
    checkpoint(tmp_path / "checkpoint_core.pt", 2, val_loss=1.0, task_state={"partition": PARTITION | {"max_level": 1}})
    checkpoint(tmp_path / "checkpoint_stock.pt", 3, val_loss=1.0, task_state={})
    for network in ("core", "super"):
        state = averaged(tmp_path, "--best", "1", "--network", network, tmp_path / "mean.pt")
        assert state["extra_state"]["average_of"] == ["checkpoint1.pt"]


def test_a_run_of_an_older_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "checkpoint1.pt", 1, val_loss=2.0)
    state = torch.load(path, weights_only=True)
    del state["extra_state"]["TranslationWithPartitionedModelTask"]["value"]
    torch.save(state, path)
    arguments = [tmp_path, "--best", 1, "--network", "core", "--output", tmp_path / "mean.pt"]
    assert "1 of an older version lack the value of the network" in refusal(capsys, *arguments)


def test_a_run_of_one_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "checkpoint1.pt", 1, val_loss=1.0, task_state={})
    assert averaged(tmp_path, "--best", "1", tmp_path / "mean.pt")["extra_state"]["average_of"] == ["checkpoint1.pt"]
    arguments = [tmp_path, "--best", 1, "--network", "core", "--output", tmp_path / "mean.pt"]
    assert "--network is core and" in refusal(capsys, *arguments)


def test_average_of_a_real_run_decodes(toy_data: Path, tmp_path: Path) -> None:
    options = ["--alternate", "--small-ratio", "0.25", "--save-interval-updates", "2", "--log-format", "json"]
    validations = events(train(toy_data, tmp_path, 6, *options), "valid")
    best = sorted(validations, key=lambda entry: float(entry["valid_core_loss"]))[:2]
    updates = sorted(int(entry["valid_num_updates"]) for entry in best)

    output = tmp_path / "average_core.pt"
    command = ["-m", "fairseq_ats.cli", "average", str(tmp_path), "--best", "2", "--network", "core"]
    said = run([*command, "--output", str(output)])
    assert f"core_loss {best[0]['valid_core_loss']} after {best[0]['valid_num_updates']} updates" in said
    kept = [load(tmp_path / f"checkpoint_1_{n}.pt")["model"] for n in updates]
    for name, value in load(output)["model"].items():
        expected = torch.stack([weights[name].double() for weights in kept]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-7, atol=1e-9)

    generate = ["fairseq-generate", str(toy_data), *PLUGIN, "--path", str(output), "--cpu", "--max-len-b", "8"]
    assert len(hypotheses(run([*generate, "--max-level", "1", "--max-tokens", "800"]))) == 40
