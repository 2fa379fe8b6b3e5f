"""Networks: ERFNet, and published weights for it."""

from cilkit import subnormals  # noqa: F401  these count as zero from here on
