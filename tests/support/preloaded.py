"""What the fork server imports last, so that each process that is forked from it has it done."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.quick_hydra import share_compositions

folder = TemporaryDirectory(prefix="compositions-")  # removed when the fork server ends
share_compositions(Path(folder.name))
