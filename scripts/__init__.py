"""What a person runs in a checkout, and in folders what is behind it: ``python -m scripts.benchmarks.training``."""

import sys
from pathlib import Path

# The modules beside this file import each other by their bare names, as they do when they are run.
sys.path.append(str(Path(__file__).parent))
