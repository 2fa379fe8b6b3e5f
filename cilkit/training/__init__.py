"""Training and evaluation of one network."""

from cilkit import subnormals  # noqa: F401  these count as zero from here on
