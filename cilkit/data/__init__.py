"""Data sets: folder layouts, decoded images, the view of a stage, augmentation."""

from cilkit import subnormals  # noqa: F401  these count as zero from here on
