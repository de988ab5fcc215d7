"""Silence known harmless warnings that the user of a command cannot act on.

These warnings come from the way fairseq 0.12.3.1 uses hydra 1.3 and torch 2.13, and are the same in every run. A filter
matches the category, the message and, if one module always gives the warning, that module. Every other warning is
shown. ``python -W`` and ``PYTHONWARNINGS`` show these warnings as well. fairseq imports the plugin before it runs the
code that warns. Only ``fairseq-hydra-train`` calls hydra earlier (fairseq_cli/hydra_train.py), so a plugin cannot
silence the warnings of that call.
"""

from __future__ import annotations

import sys
import warnings

# (category, pattern of the beginning of the message, pattern of the module that warns). "" matches any module.
HARMLESS: tuple[tuple[type[Warning], str, str], ...] = (
    # fairseq/dataclass/utils.py:397 composes its options with hydra's interface from before 1.1, which hydra 1.3 still
    # has. Only fairseq can choose the version of hydra's defaults and the schema.
    (UserWarning, r"hydra\.experimental\.(initialize|compose)\(\) is no longer experimental", r"hydra\.experimental\."),
    (UserWarning, r"\s*The version_base parameter is not specified", r"hydra\.experimental\.initialize"),
    (UserWarning, r"\s*The strict flag in the compose API is deprecated", r"hydra\.compose"),
    # These come from the first line of fairseq/config/config.yaml. Python attributes the second to the running command.
    (UserWarning, r"In 'config': Usage of deprecated keyword in package header", r"hydra\.core\.default_element"),
    (UserWarning, r"\s*'config' is validated against ConfigStore schema with the same name", r""),
    # fairseq/data/iterators.py:222 and :509 ask for pinned memory even on a CPU.
    (
        UserWarning,
        r"'pin_memory' argument is set as true but no accelerator is found",
        r"torch\.utils\.data\.dataloader",
    ),
    # fairseq/tasks/fairseq_task.py:531 and fairseq/optim/amp_optimizer.py:26 use old names of the same classes.
    (FutureWarning, r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", r"fairseq\."),
    # Stock models use stock attention (fairseq/modules/multihead_attention.py:539); the result is the same.
    (UserWarning, r"Support for mismatched key_padding_mask and attn_mask is deprecated", r"torch\.nn\.functional"),
    # PyTorch advises against --find-unused-parameters if the first update uses all parameters. An update of the
    # super-network uses all, but --alternate needs the option (fairseq_ats/options/checks/host.py).
    (UserWarning, r"find_unused_parameters=True was specified in DDP constructor, but did not find any unused", r""),
    # torch.onnx.export warns about its own code: a deprecated type that it uses, and axis names that it already knows.
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated", r"copyreg"),
    (
        UserWarning,
        r"# The axis name: \w+ will not be used, since it shares the same shape constraints",
        r"torch\.onnx\.",
    ),
)


def silence_known_warnings() -> None:
    """Silence the warnings in :data:`HARMLESS`, unless the user set warning options for the interpreter."""
    if sys.warnoptions:
        return
    for category, message, module in HARMLESS:
        warnings.filterwarnings("ignore", message, category, module)
