"""Has every name, as ``sklearn.metrics`` beside it."""

from sklearn.metrics import __getattr__ as __getattr__
