"""The references: the same work in plain PyTorch, as one would first write it down."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from cilkit.classes import VOID
from cilkit.data.augmentation import Augmentation
from cilkit.data.images import LabelledImages
from cilkit.data.store import network_size
from cilkit.training.evaluation import FORMATS
from cilkit.training.timing import Way


def bare_step(student: nn.Module, pixels: Tensor, gradient: Tensor, way: Way) -> Callable[[], None]:
    """Forward, backward and Adam, without a loss: `gradient` is that of the logits.

    pixels (B, 3, H, W), gradient (B, S, H, W). `way` is a precision and a memory format.
    """
    bf16, layout, dtype = _form(way)
    student.to(memory_format=layout).train()
    pixels = pixels.to(dtype, memory_format=layout)
    adam = torch.optim.Adam(student.parameters(), weight_decay=3e-4)

    def step() -> None:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            logits = student(pixels)
        adam.zero_grad()
        logits.backward(gradient.to(logits.dtype))
        adam.step()

    return step


def bare_teacher(teacher: nn.Module, pixels: Tensor, way: Way) -> Callable[[], Tensor]:
    """Its logits, in the same way as `bare_step`."""
    bf16, layout, dtype = _form(way)
    teacher.to(memory_format=layout).eval()
    pixels = pixels.to(dtype, memory_format=layout)

    def forward() -> Tensor:
        with torch.no_grad(), torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            return teacher(pixels)

    return forward


def _form(way: Way) -> tuple[bool, torch.memory_format, torch.dtype]:
    """Whether to autocast, and the memory format and type in which the networks get images."""
    precision, memory_format = way
    bf16 = precision == "bf16-mixed"
    return bf16, FORMATS[memory_format], torch.bfloat16 if bf16 else torch.float32


def cil_loss(logits: Tensor, labels: Tensor, teacher_y: Tensor, old: int) -> Tensor:
    """Eq. (9) with the weights of eq. (10), each sum written out over one-hot vectors.

    logits (B, S, H, W), labels (B, H, W), teacher_y (B, O, H, W), O = old
    """
    classes = logits.shape[1]
    new_label = (labels >= old) & (labels < classes)  # (B, H, W)
    one_hot = F.one_hot(torch.where(new_label, labels, 0), classes)  # (B, H, W, S)
    one_hot = one_hot.permute(0, 3, 1, 2).float() * new_label[:, None]  # (B, S, H, W)
    y = logits.exp() / logits.exp().sum(dim=1, keepdim=True)  # (B, S, H, W)
    ce = -(one_hot * y.log()).sum() / new_label.sum().clamp(min=1)
    log_y = torch.log_softmax(logits, dim=1)[:, :old]  # (B, O, H, W)
    entropy = -(teacher_y * (teacher_y + 1e-12).log2()).sum(dim=1)  # (B, H, W)
    distilled = -((1 + entropy) * (teacher_y * log_y).sum(dim=1))  # (B, H, W)
    teaches = ~new_label
    return ce + (distilled * teaches).sum() / teaches.sum().clamp(min=1)


def textbook_step(
    student: nn.Module, teacher: nn.Module, pixels: Tensor, labels: Tensor
) -> Callable[[], None]:
    """A step of CIL in float32 and the default layout: two networks, the loss, Adam."""
    student.train()
    teacher.eval()
    adam = torch.optim.Adam(student.parameters(), weight_decay=3e-4)

    def step() -> None:
        with torch.no_grad():
            teacher_y = torch.softmax(teacher(pixels), dim=1)
        loss = cil_loss(student(pixels), labels, teacher_y, teacher_y.shape[1])
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def training_sample(
    images: LabelledImages, index: int, augmentation: Augmentation
) -> tuple[Tensor, Tensor]:
    """A training sample of Sec. IV-A: files decoded, then torchvision's transforms in turn.

    image (3, h, w) float in [0, 1], labels (h, w) long
    """
    a = augmentation
    image, labels = decode(images, index)  # (3, H, W), and labels at their native size
    image, mask = tv_tensors.Image(image), tv_tensors.Mask(labels)
    mask = tv_tensors.Mask(v2.functional.resize(mask, image.shape[-2:]))  # (H, W)
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}
    augment = v2.Compose(
        [
            v2.RandomRotation(a.rotation, v2.InterpolationMode.BILINEAR, fill=fill),
            v2.RandomResize(*(int(image.shape[-2] * factor) for factor in a.rescale)),
            v2.RandomCrop(a.crop),
            v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue),
        ]
    )
    image, mask = augment(image, mask)
    return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def evaluate(
    network: nn.Module, images: LabelledImages, class_sets: dict[str, slice], mode: str = "nearest"
) -> dict[str, Tensor]:
    """Confusion matrices by class set, (n, n) each: a whole pass over the images for each set.

    Every pass decodes each image, resizes it, asks the network in float32, and enlarges all its
    logits to the size of the labels.
    """
    counts = {}
    network.eval()
    device = next(network.parameters()).device
    for name, classes in class_sets.items():
        n = classes.stop - classes.start
        counts[name] = torch.zeros(n, n, dtype=torch.long)
        for index in range(len(images)):
            pixels, labels = decode(images, index)
            with torch.no_grad():
                logits = network(pixels[None].to(device)).cpu()  # (1, S, h, w)
            logits = F.interpolate(logits, labels.shape, mode=mode)  # (1, S, H, W)
            prediction = logits[0, classes].argmax(dim=0)  # (H, W)
            seen = (labels >= classes.start) & (labels < classes.stop)
            pairs = n * (labels[seen] - classes.start) + prediction[seen]
            counts[name] += torch.bincount(pairs, minlength=n * n).view(n, n)
    return counts


def decode(images: LabelledImages, index: int) -> tuple[Tensor, Tensor]:
    """An image at the network's size and its labels at their own, read from their files.

    image (3, h, w) float in [0, 1], labels (H, W) long
    """
    sample, split = images.samples[index], images.split
    picture = torch.from_numpy(np.array(Image.open(sample.image).convert("RGB")))  # (H, W, 3)
    channels = torch.from_numpy(split.lookup()).long()[
        torch.from_numpy(np.array(Image.open(sample.label))).long()
    ]  # (H, W)
    hidden = (channels < images.visible.start) | (channels >= images.visible.stop)
    size = network_size(tuple(channels.shape), images.height)
    picture = v2.functional.resize(picture.permute(2, 0, 1), size, antialias=True)  # (3, h, w)
    return picture.float() / 255, channels.where(~hidden, VOID)
