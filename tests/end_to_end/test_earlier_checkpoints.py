"""Checkpoints that an earlier version wrote: they decode, resume and convert as they did then.

The folder ``earlier`` holds an alternating run of each module, stopped at update 601 (before a core update and within
an epoch), the text that ``fairseq-generate --beam 5`` of that version made of its test set, and the weights that the
version reached at update 606.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fairseq_ats.convert import CoreCheckpoint, StockCheckpoint, convert
from fairseq_ats.convert.output_format import OutputFormat
from fairseq_ats.translate import Translator
from tests.support.command_line import train

EARLIER = Path(__file__).parent / "earlier"
DATA = EARLIER / "data"
ARCH = """--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16
    --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2
    --share-all-embeddings --dropout 0.1 --lr 0.02 --weight-decay 0.01 --disable-validation --alternate""".split()


@pytest.fixture(params=["low_rank", "small_width"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("network", ["core", "super"])
def test_earlier_checkpoint_decodes_to_its_text(name: str, network: str) -> None:
    translate = Translator(EARLIER / f"{name}.pt", level=network, data=DATA, beam=5)
    lines = (DATA / "test.en").read_text().splitlines()
    assert translate(lines) == (EARLIER / f"{name}.{network}.txt").read_text().splitlines()


def test_earlier_checkpoint_resumes_to_its_weights(name: str, tmp_path: Path) -> None:
    shutil.copy(EARLIER / f"{name}.pt", tmp_path / "checkpoint_last.pt")
    train(DATA, tmp_path, 606, *ARCH)
    weights = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    expected = torch.load(EARLIER / f"{name}.update606.pt", weights_only=True)
    before = torch.load(EARLIER / f"{name}.pt", weights_only=True)["model"]
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        if "k_proj" in key and "bias" in key:
            # Softmax does not see it: its gradient is rounding alone, of which Adam makes steps of at most --lr.
            assert (weights[key] - value).abs().max() <= 5 * 0.02, key
            continue
        # 1e-5: another processor may round otherwise. Five updates of Adam moved weights by more than 1e-3.
        assert torch.allclose(weights[key], value, atol=1e-5, rtol=1e-4), key
    assert max((before[key] - expected[key]).abs().max() for key in expected) > 1e-3


@pytest.mark.parametrize(("network", "output_format"), [("core", CoreCheckpoint()), ("super", StockCheckpoint())])
def test_earlier_checkpoint_converts(name: str, network: str, output_format: OutputFormat, tmp_path: Path) -> None:
    output = tmp_path / "network.pt"
    convert(EARLIER / f"{name}.pt", network, output_format, output, data=DATA)
    translate = Translator(output, data=DATA, beam=5)
    lines = (DATA / "test.en").read_text().splitlines()
    assert translate(lines) == (EARLIER / f"{name}.{network}.txt").read_text().splitlines()
