"""Write the model card of a converted network: what it is, how to use it, and what its run measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fairseq_ats.checkpoints.keys import states_of
from fairseq_ats.convert.source_network import SourceNetwork

_CARD = """---
language:
- {source}
- {target}
library_name: transformers
tags:
- translation
- fairseq
- fairseq-ats
---

# {source} → {target}: {title}

A Transformer for translation, trained with fairseq-ats: one network of a run that trains several.

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")  # needs sentencepiece
model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER")
batch = tokenizer([{text}], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```
{lower}
| what | value |
|---|---|
{rows}

The conversion compared log-probabilities and tokenizer with the checkpoint's before it wrote this folder.
"""
_LOWER = """
The network reads lower-cased text, and the tokenizer does not lower-case: hence `.lower()`.
"""


def model_card(source: SourceNetwork, architecture: str) -> str:
    """Return the text of ``README.md``.

    Args:
        architecture: the class of ``transformers``.
    """
    rows = [
        ("network", source.title),
        (
            "architecture",
            f"{architecture}, of fairseq's {source.checkpoint.options('model').get('arch', 'transformer')}",
        ),
        ("parameters", f"{source.parameters:,} in training"),
        ("partition", ", ".join(f"{name} {value}" for name, value in source.partition.to_dict().items())),
        ("updates", f"{source.checkpoint.updates:,}"),
        *_validation(source),
        *_evaluation(source),
    ]
    return _CARD.format(
        source=source.task.cfg.source_lang,
        target=source.task.cfg.target_lang,
        title=source.title,
        text='"A line of text".lower()' if source.data.lowercase else '"A line of text"',
        lower=_LOWER if source.data.lowercase else "",
        rows="\n".join(f"| {name} | {_escaped(value)} |" for name, value in rows),
    )


def _escaped(value: str) -> str:
    return value.replace("|", "\\|")  # it would end the cell


def _validation(source: SourceNetwork) -> Iterator[tuple[str, str]]:
    """Yield the value of this checkpoint in its validation, of each network that has one."""
    progress = source.checkpoint.state["extra_state"]
    if isinstance(progress.get("val_loss"), float):
        metric = source.checkpoint.options("checkpoint").get("best_checkpoint_metric", "loss")
        yield f"validation, {metric}", f"{progress['val_loss']:.4g}"
    for state in states_of(progress):
        if isinstance(state.get("value"), float):
            yield f"validation, {state['metric']}", f"{state['value']:.4g}"


def _evaluation(source: SourceNetwork) -> Iterator[tuple[str, str]]:
    """Yield what ``fairseq-ats evaluate`` measured for this network of this checkpoint, if it did."""
    for path in sorted(source.path.parent.glob("evaluation*.json")):
        for network, conditions in _networks_in(path.read_text("utf-8")):
            name = str(network.get("checkpoint", "")).rpartition("/")[2]
            if (name, network.get("name"), network.get("updates")) != (
                source.path.name,
                source.name,
                source.checkpoint.updates,
            ):
                continue
            beam = f"beam {conditions.get('beam')}"
            yield f"BLEU, test set, {beam}", f"{network['bleu']:.2f} ({network.get('signature')})"
            chrf = network.get("tests", {}).get("test", {})
            if "chrf" in chrf:
                yield f"chrF, test set, {beam}", f"{chrf['chrf']:.2f} ({chrf.get('chrf_signature')})"
            return
    yield "BLEU", "not measured; `fairseq-ats evaluate DATA RUN` before the conversion"


def _networks_in(text: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each network of an evaluation with the whole record; nothing of a file of another kind."""
    try:
        record = json.loads(text)
    except ValueError:
        return
    if isinstance(record, dict):
        yield from ((network, record) for network in record.get("networks", []) if "bleu" in network)
