"""Silence the warnings of this stack that a person who runs a command can do nothing about.

They come from fairseq 0.12.3.1's use of hydra 1.3 and torch 2.13, and are the same in every run. Each is silenced by
category, message and, if it has a module of its own, module. Every other warning is shown. With ``python -W`` or
``PYTHONWARNINGS`` these are shown as well. fairseq imports the plugin before it does what they warn of. Only
``fairseq-hydra-train`` calls hydra before that (fairseq_cli/hydra_train.py), where a plugin cannot reach.
"""

from __future__ import annotations

import sys
import warnings

# (category, beginning of the message, module that warns), as patterns. "" is any module.
HARMLESS: tuple[tuple[type[Warning], str, str], ...] = (
    # fairseq/dataclass/utils.py:397 composes its options by hydra's interface from before 1.1, which hydra 1.3 still
    # has. Only fairseq can say which version's defaults are meant, and with which schema.
    (UserWarning, r"hydra\.experimental\.(initialize|compose)\(\) is no longer experimental", r"hydra\.experimental\."),
    (UserWarning, r"\s*The version_base parameter is not specified", r"hydra\.experimental\.initialize"),
    (UserWarning, r"\s*The strict flag in the compose API is deprecated", r"hydra\.compose"),
    # fairseq/config/config.yaml, in the header of its first line; Python charges the second to the running command.
    (UserWarning, r"In 'config': Usage of deprecated keyword in package header", r"hydra\.core\.default_element"),
    (UserWarning, r"\s*'config' is validated against ConfigStore schema with the same name", r""),
    # fairseq/data/iterators.py:222 and :509 ask for pinned memory, also on a CPU.
    (
        UserWarning,
        r"'pin_memory' argument is set as true but no accelerator is found",
        r"torch\.utils\.data\.dataloader",
    ),
    # fairseq/tasks/fairseq_task.py:531 and fairseq/optim/amp_optimizer.py:26, old names of the same things.
    (FutureWarning, r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated", r"fairseq\."),
    # Stock attention in stock models (fairseq/modules/multihead_attention.py:539); the result is the same.
    (UserWarning, r"Support for mismatched key_padding_mask and attn_mask is deprecated", r"torch\.nn\.functional"),
    # PyTorch advises against --find-unused-parameters if the first update uses all parameters, as one of the
    # super-network does; with --alternate the option is needed (fairseq_ats/options/checks/host.py).
    (UserWarning, r"find_unused_parameters=True was specified in DDP constructor, but did not find any unused", r""),
    # torch.onnx.export warns about its own parts: a type that it still uses, and names of axes that it knows already.
    (FutureWarning, r"`isinstance\(treespec, LeafSpec\)` is deprecated", r"copyreg"),
    (
        UserWarning,
        r"# The axis name: \w+ will not be used, since it shares the same shape constraints",
        r"torch\.onnx\.",
    ),
)


def silence_known_warnings() -> None:
    """Filter :data:`HARMLESS`, unless the interpreter was told which warnings to show."""
    if sys.warnoptions:
        return
    for category, message, module in HARMLESS:
        warnings.filterwarnings("ignore", message, category, module)
