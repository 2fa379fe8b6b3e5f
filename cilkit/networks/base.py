"""What a network must offer to learn class after class (Sec. III-C, Fig. 2)."""

from copy import deepcopy
from typing import Self

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

IMAGENET_MEAN, IMAGENET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Segmenter(nn.Module):
    """An encoder, and one decoder or several after it: images to scores of all classes.

        images  (B, 3, H, W)  in [0, 1]; H and W are multiples of `stride`
        logits  (B, S, H, W)  of several decoders concatenated, oldest first: S1, S2, ...

    A network is a subclass with `new_encoder` and `new_decoder`. Its last layers have a feature map
    for each class, in this order, and no other layer depends on the number of classes. Entered in
    NETWORKS by a name, it is what TrainConfig(network=name) trains.
    """

    stride = 8  # images of the kit are multiples of 8; a network with a larger one pads them itself

    def __init__(self, num_classes: int, *more_classes: int, normalise: bool = False):
        """A decoder for each number of classes; `normalise` by ImageNet's mean and deviation."""
        super().__init__()
        self.normalise = normalise
        self.classes = (num_classes, *more_classes)  # of each decoder
        for classes in self.classes:
            _check_classes(classes)
        self.encoder = self.new_encoder()
        self.decoder = self.new_decoder(num_classes)
        self.more_decoders = nn.ModuleList(self.new_decoder(classes) for classes in more_classes)

    def new_encoder(self) -> nn.Module:
        """With random weights: images (B, 3, H, W) to features of any shape."""
        raise NotImplementedError(f"{type(self).__name__} has no method new_encoder")

    def new_decoder(self, classes: int) -> nn.Module:
        """With random weights: features to logits (B, classes, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} has no method new_decoder")

    def residual_end(self, module: nn.Module) -> nn.BatchNorm2d | None:
        """The last batch norm of a module that is a residual block, before its addition."""
        return None

    @property
    def decoders(self) -> list[nn.Module]:
        """All decoders, oldest first."""
        return [self.decoder, *self.more_decoders]

    @property
    def num_classes(self) -> int:
        """Channels of the output, over all decoders."""
        return sum(self.classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2] % self.stride or images.shape[-1] % self.stride:
            raise ValueError(
                f"images are {images.shape[-2]} x {images.shape[-1]} pixels; crop or resize height "
                f"and width to multiples of {self.stride}, the stride of {type(self).__name__}"
            )
        if self.normalise:
            images = normalize(images, IMAGENET_MEAN, IMAGENET_DEVIATION)
        features = self.encoder(images)
        if not self.more_decoders:
            return self.decoder(features)  # (B, S, H, W)
        return torch.cat([decoder(features) for decoder in self.decoders], dim=1)

    def widened(self, new: int) -> Self:
        """A copy whose last layer has `new` more feature maps, for the teacher-based methods.

        Old weights are kept and new output channels are random. The paper starts each stage from
        random weights instead (footnote 2): TrainConfig.start chooses.
        """
        _check_classes(new)
        if self.more_decoders:
            raise ValueError(
                f"the network has {len(self.decoders)} decoders; a wider last layer is for "
                "networks with one. Use with_decoder, or a teacher trained by a teacher-based "
                "method"
            )
        wider = type(self)(self.num_classes + new, normalise=self.normalise)
        state = self.state_dict()
        for name, grown in wider.state_dict().items():
            if grown.shape != state[name].shape:  # of a last layer: the old channels come first
                old, state[name] = state[name], grown.clone()
                state[name][tuple(map(slice, old.shape))] = old
        wider.load_state_dict(state)
        return wider

    def with_decoder(self, new: int) -> Self:
        """A copy with one more decoder, for `new` classes, with random weights (Fig. 2)."""
        _check_classes(new)
        grown = deepcopy(self)
        grown.classes = (*self.classes, new)
        grown.more_decoders.append(self.new_decoder(new).to(next(self.parameters()).device))
        return grown

    def start_as_identity(self, part: nn.Module) -> None:
        """Let each residual block of a part begin as the identity: its last scale is zero.

        Everything else stays random. The gradient then reaches all blocks undisturbed, and the
        first few hundred steps teach several times more (Goyal et al. 2017, Sec. 5.1).
        """
        for module in part.modules():
            if (norm := self.residual_end(module)) is not None:
                nn.init.zeros_(norm.weight)


def _check_classes(classes: object) -> None:
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"a decoder for {classes!r} classes; wanted a whole number from 1")
