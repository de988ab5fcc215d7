"""``fairseq-ats-convert --to huggingface``: a folder that ``transformers`` loads with ``from_pretrained``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_ats.convert.formats import huggingface
from fairseq_ats.inference.translator import Translator
from tests.fixtures import TINY_ARCH
from tests.support.conversions import CORE, SUPER, VARIANTS, convert, load, python_interface, save_checkpoint

transformers = pytest.importorskip("transformers")

SMALL_WIDTH = ["--partitioned-linear-module-name", "PartitionedLinear", "--small-ratio", "0.25"]
NOT_SHARED = [option for option in TINY_ARCH if option != "--share-all-embeddings"]
SENTENCES = 20


def to_huggingface(checkpoint: Path, level: int | str, output: Path, *options: str) -> Path:
    return convert(checkpoint, level, output, *options, to="huggingface")


def loaded(folder: Path) -> tuple[Any, Any]:
    """The folder as a user of ``transformers`` has it."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(folder)).eval()
    return transformers.AutoTokenizer.from_pretrained(str(folder)), model


@pytest.fixture(scope="module")
def core(two_trained_networks: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checked = ["--verify-on", str(toy_data / "test.en"), "--beam", "3"]
    output = tmp_path_factory.mktemp("huggingface") / "core"
    return to_huggingface(two_trained_networks / "checkpoint_last.pt", "core", output, *checked)


@pytest.fixture
def wide(build: Callable[..., SimpleNamespace], tmp_path: Path) -> Path:
    return save_checkpoint(build(*SMALL_WIDTH), tmp_path / "source.pt")


def test_transformers_translates_as_fairseq_does(two_trained_networks: Path, toy_data: Path, core: Path) -> None:
    tokenizer, model = loaded(core)
    text = (toy_data / "test.en").read_text().splitlines()[:SENTENCES]
    batch = tokenizer(text, return_tensors="pt", padding=True)
    found = tokenizer.batch_decode(model.generate(**batch, num_beams=3), skip_special_tokens=True)
    hub = python_interface(two_trained_networks / "checkpoint_last.pt", toy_data, CORE)
    assert found == [hub.translate(line, beam=3) for line in text]
    assert len(set(found)) > SENTENCES / 2, "the network says the same of everything"


@pytest.mark.parametrize(
    ("module_name", "variant", "arch"),
    [
        ("PartitionedLinear", "post-norm", TINY_ARCH),
        ("PartitionedLinear", "pre-norm", NOT_SHARED),
        ("PartitionedRankLinear", "pre-norm", TINY_ARCH),
        ("PartitionedRankLinear", "unequal", NOT_SHARED),
    ],
)
def test_same_logits(
    build: Callable[..., SimpleNamespace],
    toy_data: Path,
    tmp_path: Path,
    module_name: str,
    variant: str,
    arch: list[str],
) -> None:
    unequal = ["--encoder-layers", "1", "--decoder-attention-heads", "2", "--no-scale-embedding"]
    options = (VARIANTS | {"unequal": unequal})[variant]
    built = build("--partitioned-linear-module-name", module_name, "--small-ratio", "0.25", *options, arch=arch)
    source = save_checkpoint(built, tmp_path / "source.pt")
    for level in (CORE, SUPER):
        dense = ["--dense"] if level == CORE and module_name == "PartitionedRankLinear" else []
        _, model = loaded(to_huggingface(source, level, tmp_path / str(level), *dense))
        assert type(model).__name__.startswith("M2M100" if variant == "pre-norm" else "FSMT")
        # Two sentences of different lengths: padded on the left in fairseq, on the right here.
        numbers, previous = torch.tensor([[7, 8, 9, 2], [5, 2, 1, 1]]), torch.tensor([[2, 10, 11], [2, 12, 13]])
        with torch.no_grad():
            inputs = {"input_ids": numbers, "attention_mask": numbers.ne(1), "decoder_input_ids": previous}
            found = model(**inputs, use_cache=False).logits
            left, lengths = torch.tensor([[7, 8, 9, 2], [1, 1, 5, 2]]), torch.tensor([4, 2])
            expected = load(source, toy_data, max_level=level)(left, lengths, previous)[0]
            other = load(source, toy_data, max_level=3 - level)(left, lengths, previous)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert (other - expected).abs().max() > 1e-2, "the networks are alike, and the test could not fail"


@pytest.mark.parametrize("beam", [1, 3])
def test_translator_runs_the_folder(
    two_trained_networks: Path, toy_data: Path, core: Path, tmp_path: Path, beam: int
) -> None:
    text = (toy_data / "test.en").read_text().splitlines()[:SENTENCES]
    checkpoint = Translator(two_trained_networks / "checkpoint_last.pt", "core", beam=beam, max_len_b=30)
    folder = Translator(core, beam=beam, max_len_b=30, batch_size=7)
    assert folder(["", *text]) == checkpoint(["", *text])
    pieces = [folder._text.encode(line) for line in text]
    both = list(zip(folder._engine.best(pieces), checkpoint._engine.best(pieces), strict=True))
    ended = [(found.score, expected.score) for found, expected in both if len(found.tokens) < 30]
    assert len(ended) > SENTENCES / 2
    for found, expected in ended:
        assert found == pytest.approx(expected, abs=1e-4)
    shutil.copytree(core, tmp_path / "damaged")
    (tmp_path / "damaged" / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        Translator(tmp_path / "damaged")


def test_text_is_numbered_as_in_fairseq(toy_data: Path, core: Path) -> None:
    """An unknown letter, a special symbol that is typed, a piece that no training text had, and nothing."""
    tokenizer, _ = loaded(core)
    hub_like = Translator(core)._text
    numbers = json.loads((core / "vocab.json").read_text("utf-8"))
    symbols = [line.split()[0] for line in (toy_data / "dict.en.txt").read_text("utf-8").splitlines()]
    assert numbers == {symbol: n for n, symbol in enumerate(["<s>", "<pad>", "</s>", "<unk>", *symbols])}
    for line in ("ba be", "ba ü be", "</s> ba", "xyz", ""):
        assert tokenizer(line)["input_ids"] == [numbers.get(piece, 3) for piece in hub_like.encode(line)] + [2]


def test_the_card_has_the_numbers_of_the_run(two_trained_networks: Path, toy_data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint_last.pt"
    shutil.copyfile(two_trained_networks / "checkpoint_last.pt", checkpoint)
    measured = {"name": "core", "checkpoint": "RUN/checkpoint_last.pt", "level": 1, "updates": 102}
    measured |= {"bleu": 12.345, "signature": "nrefs:1|case:mixed"}
    changes = ({"name": "super", "level": 2}, {"updates": 101}, {"checkpoint": "RUN/checkpoint_best.pt"})
    others = [measured | change for change in changes]
    record = {"beam": 4, "networks": [*({**other, "bleu": 99.9} for other in others), measured]}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dict.en.txt", "dict.de.txt", "sentencepiece.model"):
        shutil.copyfile(toy_data / name, data / name)
    (data / "binarised.json").write_text(json.dumps({"source": "en", "target": "de", "lowercase": True}))
    card = (to_huggingface(checkpoint, "core", tmp_path / "core", "--data", str(data)) / "README.md").read_text()
    assert r"| BLEU, test set, beam 4 | 12.35 (nrefs:1\|case:mixed) |" in card
    assert "99.9" not in card
    assert "| updates | 102 |" in card
    assert '"A line of text".lower()' in card
    card = (to_huggingface(checkpoint, "super", tmp_path / "super") / "README.md").read_text()
    assert "| BLEU, test set, beam 4 | 99.90 " in card
    assert ".lower()" not in card


def test_a_wrong_weight_leaves_nothing(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = huggingface.stock_parameters

    def wrong(model: Any) -> dict[str, torch.Tensor]:
        parameters = right(model)
        return parameters | {"encoder.layers.0.fc2.weight": 0.99 * parameters["encoder.layers.0.fc2.weight"]}

    monkeypatch.setattr(huggingface, "stock_parameters", wrong)
    with pytest.raises(SystemExit, match=r"logits differ from the source's by .* nats on random input; allowed: 0\.0"):
        to_huggingface(wide, "core", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["source.pt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder-learned-pos"], "--encoder-learned-pos is given"),
        (["--layernorm-embedding"], "--layernorm-embedding is given"),
        (["--decoder-normalize-before"], "--decoder-normalize-before is True; they must be equal"),
        (["--decoder-output-dim", "16"], "--decoder-output-dim is 16; allowed: 32"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(
    build: Callable[..., SimpleNamespace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    source = save_checkpoint(build(*SMALL_WIDTH, *options, arch=NOT_SHARED), tmp_path / "source.pt")
    monkeypatch.delattr(huggingface.HuggingFaceModel, "write")
    with pytest.raises(SystemExit, match="transformers cannot hold this model: ") as refusal:
        to_huggingface(source, "core", tmp_path / "folder")
    assert message in str(refusal.value)


def test_text_that_it_cannot_cut_is_refused(
    wide: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(huggingface.HuggingFaceModel, "write")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("dict.en.txt", "dict.de.txt", "binarised.json"):
        shutil.copyfile(toy_data / name, data / name)
    with pytest.raises(SystemExit, match=r"needs a sentencepiece model, and .*data has none"):
        to_huggingface(wide, "core", tmp_path / "folder", "--data", str(data))
    (data / "sentencepiece.model").write_bytes(b"none")
    with pytest.raises(SystemExit, match="cannot be read as a sentencepiece model"):
        to_huggingface(wide, "core", tmp_path / "folder", "--data", str(data))
    assert {path.name for path in tmp_path.iterdir()} == {"data", "source.pt"}


def test_dictionaries_that_do_not_fit_are_refused(toy_data: Path) -> None:
    def check(source: Dictionary, target: Dictionary) -> None:
        model = toy_data / "sentencepiece.model"
        task, data = SimpleNamespace(source_dictionary=source, target_dictionary=target), SimpleNamespace(path="DATA")
        huggingface.check_tokenizer(cast(Any, SimpleNamespace(sentencepiece_model=model, data=data, task=task)))

    right, longer = (Dictionary.load(str(toy_data / "dict.en.txt")) for _ in range(2))
    right.pad_to_multiple_(1000)  # as fairseq-preprocess --padding-factor 1000
    check(right, right)
    with pytest.raises(ValueError, match=r"the two dictionaries in DATA differ; .* --joined-dictionary makes one"):
        check(right, longer)
    longer.add_symbol("word@@")
    with pytest.raises(ValueError, match=r"1 of \d+ symbols of the dictionary in DATA .*, such as 'word@@'"):
        check(longer, longer)


def test_options_that_it_has_not_are_refused(
    wide: Path, build: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low_rank = save_checkpoint(build("--partitioned-linear-module-name", "PartitionedRankLinear"), tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="--to huggingface has dense layers only, and this core is of low rank"):
        to_huggingface(low_rank, "core", tmp_path / "folder")
    with pytest.raises(SystemExit, match="--tune-on is valid, and this format keeps no beam"):
        to_huggingface(wide, "core", tmp_path / "folder", "--tune-on", "valid")
    with pytest.raises(SystemExit, match="--quantization has no meaning with --to huggingface"):
        to_huggingface(wide, "core", tmp_path / "folder", "--quantization", "int8")
    with pytest.raises(SystemExit, match=r"argument --to: it is marian; the positions of Marian .* allowed: huggingf"):
        convert(wide, "core", tmp_path / "folder", to="marian")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match=r"this format needs the package transformers .*'fairseq-ats\[huggingface\]'"):
        to_huggingface(wide, "core", tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "source.pt"}
