"""Load the fixtures, which import torch and fairseq, where tests run."""

from tests import HANDS_OUT_TESTS

pytest_plugins = () if HANDS_OUT_TESTS else ("tests.fixtures",)
