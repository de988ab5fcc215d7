"""Packaging of the fairseq plugin; the exact versions that were tested together are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """``__version__``, read and not imported: importing the package needs fairseq."""
    text = (ROOT / "fairseq_ats" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('fairseq_ats/__init__.py has no line __version__ = "..."')
    return match.group(1)


def long_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="fairseq-ats",
    version=version(),
    description="Alternating training of a Transformer and the core network inside it, as a fairseq plugin",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["fairseq_ats*"]),
    entry_points={
        "console_scripts": [
            "fairseq-ats-average = fairseq_ats.checkpoints.average:main",
            "fairseq-ats-convert = fairseq_ats.cli.convert:main",
            "fairseq-ats-translate = fairseq_ats.cli.translate:main",
        ]
    },
    install_requires=[
        "torch>=2.6",  # the first that reads checkpoints weights-only by default
        "fairseq-fixed==0.12.3.1",  # the fairseq whose internals the plugin was checked against
        "sentencepiece",
        "sacrebleu>=2.4",
        "pyyaml",
        "numpy",
        "tqdm",
    ],
    extras_require={
        # what fairseq-ats-convert writes, and fairseq-ats-translate reads
        "deploy": ["ctranslate2>=4.8", "onnx", "onnxscript", "onnxruntime"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "ruff"],
        "plot": ["matplotlib"],
    },
)
