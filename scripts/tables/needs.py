"""Make what a row needs of another row's run of the same seed, by the commands that a user would type.

A row of ``tables.yaml`` may have a key ``needs``, such as ``{init_from: standard}``:

=============  =======================================================================================
key            what the training gets
=============  =======================================================================================
``init_from``  ``--init-from``: the highest network of that run, as it is decoded, as a stock checkpoint
``core_data``  ``--core-data``: the data with that network's translations as targets of the training split
``data``       the same folder as DATA of the training; the run is scored on the recipe's own data
=============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ats.data.binarise import STAMP
from fairseq_ats.files import sha256_of
from scripts.tables.description import shown
from scripts.tables.runs import FINISHED, Run

STOCK, FOLDER, TRANSLATED = "stock.pt", "ctranslate2", "translated"


@dataclass(frozen=True)
class Needs:
    """What one run needs.

    Args:
        data: the recipe's data, or those given with --data.
        sources: key of ``needs`` → the run that it names.
    """

    data: Path
    sources: Mapping[str, Run]

    @property
    def training_data(self) -> Path:
        """DATA of the training."""
        return self._files["data"] if "data" in self.sources else self.data

    @property
    def options(self) -> list[str]:
        """Options of fairseq-train."""
        of_keys = (("--" + key.replace("_", "-"), file) for key, file in self._files.items() if key != "data")
        return [word for option, file in of_keys for word in (option, str(shown(file)))]

    def check(self) -> None:
        """Raise ValueError if a run that is needed is not there."""
        for key, source in self.sources.items():
            if not self._files[key].exists() and source.state() != FINISHED:
                raise ValueError(
                    f"it needs {source}, which is {source.state()} in {shown(source.folder)}; train it first"
                )

    def commands(self, threads: int) -> list[list[str]]:
        """Return the commands that make what is not there, as typed in the repository's root."""
        lines: list[list[str]] = []
        for key, source in self.sources.items():
            if self._files[key].exists():
                continue
            folder, data = shown(source.folder), str(shown(self.data))
            model = f"{folder}/checkpoint_best.pt"
            if source.recipe.averaged_epochs is not None:
                model = f"{folder}/average.pt"
                epochs = str(source.recipe.averaged_epochs)
                lines.append(["fairseq-ats", "average", str(folder), "--last-epochs", epochs, "--output", model])
            # Two processes that train two rows may make the same file.
            convert = ["fairseq-ats", "convert", model, "--level", "super", "--data", data, "--overwrite", "--to"]
            if key == "init_from":
                lines.append([*convert, "fairseq", "--output", f"{folder}/{STOCK}"])
            else:
                lines.append([*convert, "ctranslate2", "--output", f"{folder}/{FOLDER}"])
                translated = f"{folder}/{TRANSLATED}"
                lines.append(
                    ["fairseq-ats", "distil", data, f"{folder}/{FOLDER}", translated, "--threads", str(threads)]
                )
        return lines

    def stamp(self) -> dict[str, Any]:
        """Return which runs the run was made of, and digests of what it got."""
        files = {key: file / STAMP if file.is_dir() else file for key, file in self._files.items()}
        return {key: {"row": self.sources[key].row, "sha256": sha256_of(file)} for key, file in files.items()}

    @property
    def _files(self) -> dict[str, Path]:
        return {
            key: source.folder / (STOCK if key == "init_from" else TRANSLATED) for key, source in self.sources.items()
        }
