"""A run is quiet, unless there is something to do."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from fairseq_ats.host import warnings as known_warnings
from fairseq_ats.host.warnings import HARMLESS, silence_known_warnings
from tests.support.command_line import PLUGIN, run, train

# As they were printed on this stack, by fairseq-train, -generate, -validate and -interactive, by a training with --amp,
# by stock attention, two workers, and the export to ONNX; in the order of HARMLESS.
MESSAGES = [
    (UserWarning, "hydra.experimental.initialize() is no longer experimental. Use h", "hydra.experimental.initialize"),
    (UserWarning, "\nThe version_base parameter is not specified.\nPlease", "hydra.experimental.initialize"),
    (UserWarning, "\nThe strict flag in the compose API is deprecated.\nSee", "hydra.compose"),
    (UserWarning, "In 'config': Usage of deprecated keyword in package header '# @", "hydra.core.default_element"),
    (UserWarning, "\n'config' is validated against ConfigStore schema with the same name.\n", "sys"),
    (UserWarning, "'pin_memory' argument is set as true but no accelerator is found,", "torch.utils.data.dataloader"),
    (FutureWarning, "`torch.cuda.amp.autocast(args...)` is deprecated. Please use", "fairseq.tasks.fairseq_task"),
    (UserWarning, "Support for mismatched key_padding_mask and attn_mask is deprecated.", "torch.nn.functional"),
    (UserWarning, "find_unused_parameters=True was specified in DDP constructor, but did not find any unused", "x"),
    (FutureWarning, "`isinstance(treespec, LeafSpec)` is deprecated, use", "copyreg"),
    (
        UserWarning,
        "# The axis name: batch will not be used, since it shares the same shape constraints with another",
        "torch.onnx._internal.exporter._onnx_program",
    ),
]


def shown(messages: list[tuple[type[Warning], str, str]]) -> list[str]:
    """Those that appear after the filters were set."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence_known_warnings()
        for category, text, module in messages:
            warnings.warn_explicit(text, category, "file.py", 1, module=module)
    return [str(warning.message) for warning in seen]


def test_training_and_decoding_are_quiet(toy_data: Path, tmp_path: Path) -> None:
    said = train(toy_data, tmp_path, 1, "--alternate")
    decoding = ["--path", str(tmp_path / "checkpoint_last.pt"), "--cpu", "--beam", "1", "--max-len-b", "3"]
    said += run(["fairseq-generate", str(toy_data), *PLUGIN, *decoding])
    assert "H-0" in said
    assert "| core_loss" in said
    assert [line for line in said.splitlines() if "warn" in line.lower()] == []


def test_each_filter_is_for_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(MESSAGES) == []
    for number, (_, text, _) in enumerate(MESSAGES):
        others = HARMLESS[:number] + HARMLESS[number + 1 :]
        with monkeypatch.context() as patch:
            patch.setattr(known_warnings, "HARMLESS", others)
            assert shown(MESSAGES) == [text]


def test_other_warnings_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        (UserWarning, "torch.cuda.amp.GradScaler is enabled, but CUDA is not available.  Disabling.", "fairseq.optim"),
        (DeprecationWarning, MESSAGES[0][1], MESSAGES[0][2]),
        (UserWarning, MESSAGES[5][1], "my.loader"),
        (UserWarning, "This overload of add_ is deprecated", "torch.nn.functional"),
    ]
    assert shown(others) == [text for _, text, _ in others]
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    assert shown(MESSAGES) == [text for _, text, _ in MESSAGES], "python -W was overruled"
