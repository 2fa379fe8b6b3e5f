"""The memory D_m of eq. (6): each image of an earlier stage rated, and a few of them kept."""

import pandas as pd
import torch
from tqdm import tqdm

from cilkit.classes import channels_of
from cilkit.data.augmentation import derive_seed
from cilkit.data.images import LabelledImages
from cilkit.methods import Memory
from cilkit.networks import Segmenter
from cilkit.training import distributed
from cilkit.training.config import TrainConfig
from cilkit.training.evaluation import predict, same_size


def rate(images: LabelledImages, network: Segmenter, config: TrainConfig) -> pd.DataFrame:
    """What a rule of `Memory` decides by: a row for each image, rated by the model of its stage.

    Columns: the labelled pixels of each class of the stage, as it sees them, and `confidence`,
    the mean over all pixels of the largest probability that the model gives (after [13]).
    Raises ValueError if the model does not know the classes.
    """
    classes = images.visible
    channels = channels_of(classes)
    if missing := tuple(channel for channel in channels if channel >= network.num_classes):
        unknown = ", ".join(images.split.names(missing))
        raise ValueError(
            f"a memory of images labelled {unknown} wants a model that has learned them, but this "
            f"one knows {network.num_classes} classes: that stage has not run yet. Train it first "
            "(08_lwm), or remember earlier stages only"
        )
    images.prepare(progress=distributed.is_rank0())
    counts, confidences = [], []
    with tqdm(total=len(images), desc="rate", unit="image", leave=False, delay=2) as bar:
        for pixels, labels in same_size(images):
            y = predict(network, pixels, config).softmax(dim=1)  # (B, S, H, W)
            confidences.append(y.amax(dim=1).mean(dim=(1, 2)))  # (B,)
            of_class = [(labels == c).sum(dim=(1, 2)) for c in channels]
            counts.append(torch.stack(of_class, dim=1))  # (B, S)
            bar.update(len(pixels))
    table = pd.DataFrame(torch.cat(counts).numpy(), columns=images.split.names(classes))
    return table.assign(confidence=torch.cat(confidences).numpy())


def choose(ratings: pd.DataFrame, memory: Memory, seed: int = 0) -> list[int]:
    """Indices of the images that a memory keeps, given the ratings of all, in order of choice.

    Raises ValueError if there are fewer images than it wants, or its rule gives something else
    than that many different indices.
    """
    check_size(memory, len(ratings))
    counts = torch.from_numpy(ratings.drop(columns="confidence").to_numpy(copy=True))
    confidence = torch.from_numpy(ratings["confidence"].to_numpy(copy=True))
    generator = torch.Generator().manual_seed(derive_seed(seed, "memory"))
    kept = memory.rule(counts, confidence, memory.size, generator)
    if torch.is_tensor(kept):
        kept = kept.tolist()
    known = set(range(len(ratings)))
    if (
        not isinstance(kept, list | tuple)
        or not all(type(index) is int and index in known for index in kept)
        or not len(kept) == len(set(kept)) == memory.size
    ):
        raise ValueError(
            f"the rule chose {kept}; wanted a list of {memory.size} different whole numbers from 0 "
            f"to {len(ratings) - 1}"
        )
    return list(kept)


def check_size(memory: Memory, images: int) -> None:
    """A ValueError if a memory wants more images than a stage has."""
    if memory.size > images:
        raise ValueError(
            f"a memory of {memory.size} images, but a stage it remembers has only {images}; choose "
            f"Memory(rule, size={images}) at most"
        )
