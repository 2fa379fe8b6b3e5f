"""A stage's view of a data set: its images, and only its labels."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cilkit.classes import HIDDEN, UNLISTED_ID, VOID, Classes, Split, channels_of
from cilkit.data.layouts import Sample
from cilkit.data.store import DecodedImages


class LabelledImages(Dataset):
    """Images with the labels that may be seen; every other label is VOID in the tensor already.

    With `hidden`, pixels labelled with a class that may not be seen are HIDDEN instead, all alike:
    which class it is never shows. Pixels that nobody labelled stay VOID. Where the background of
    the split is seen, the classes of later stages are labelled as background, as the field has it.

    Item: image (3, h, w) float in [0, 1], labels (h, w) long in channels of the split.
    `height` resizes both (bilinear, nearest) without ever enlarging; with `native_labels` the
    labels keep the size of their file, for evaluation. Files are decoded once, see `DecodedImages`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        split: Split,
        visible: Classes,
        height: int | None = None,
        native_labels: bool = False,
        decoded: DecodedImages | None = None,
        hidden: bool = False,
    ):
        """Views of one data set share what is `decoded`; by default this is a set of its own."""
        if decoded is None:
            n = len(samples)
            decoded = DecodedImages(split, *((0, n) if native_labels else (n, 0)))
        self.samples, self.split, self.visible = tuple(samples), split, visible
        self.height, self.native_labels, self._decoded = height, native_labels, decoded
        self.hidden = hidden
        table = split.lookup()
        channels = channels_of(visible)
        shown = np.isin(table, channels)
        instead = np.where(hidden & (table < UNLISTED_ID), HIDDEN, VOID)  # of a class, or of none
        if split.background in split.names(visible):
            later = (table > max(channels)) & (table < UNLISTED_ID)
            instead = np.where(later, split.channel(split.background), instead)
        self._visible_label = np.where(shown, table, instead).astype(np.uint8)  # (256,) by label id

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.load(index)
        return image / 255, labels.long()

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, h, w) and labels (h, w), both uint8; the image is kept, so do not change it."""
        image, ids = self._decoded.load(self.samples[index], self.height, self.native_labels)
        return torch.from_numpy(image), torch.from_numpy(self._visible_label.take(ids))

    def subset(self, indices: Sequence[int]) -> "LabelledImages":
        """Some of the images, in the order of `indices`, with the same labels to be seen."""
        samples = [self.samples[index] for index in indices]
        same = (self.split, self.visible, self.height, self.native_labels)
        return LabelledImages(samples, *same, self._decoded, self.hidden)

    def prepare(self, progress: bool = True) -> None:
        """Decode everything once, before it is read many times or by several processes."""
        self._decoded.prepare(self.samples, self.height, self.native_labels, progress)

    def cache_size(self) -> int:
        """Bytes of the cache on disk once it holds the whole data set; 0 if it needs none."""
        return self._decoded.cache_size(self.samples[0], self.height)


def evenly_spaced(n: int, most: int) -> list[int]:
    """At most `most` indices from 0 to n - 1, evenly spaced."""
    return torch.linspace(0, n - 1, min(n, most)).long().tolist()
