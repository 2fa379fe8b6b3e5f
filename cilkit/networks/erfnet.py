"""ERFNet (reference [16]), and the two ways to give it more classes (Sec. III-C, Fig. 2).

Module and parameter names are those of the published weight files, so these load as they are.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

IMAGENET_MEAN, IMAGENET_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Downsampler(nn.Module):
    """Half the resolution: a strided convolution beside a max-pooling, concatenated."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out - channels_in, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.conv(x), F.max_pool2d(x, 2)], dim=1)  # (B, out, H/2, W/2)
        return F.relu(self.bn(x))


class NonBottleneck1d(nn.Module):
    """Residual block of two 3x3 convolutions, each written as 3x1 then 1x3.

    The second pair carries the dilation.
    """

    def __init__(self, channels: int, dropout: float = 0.0, dilation: int = 1):
        super().__init__()
        d = dilation
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=1e-3)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, d), dilation=(1, d))
        self.bn2 = nn.BatchNorm2d(channels, eps=1e-3)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv3x1_1(x))
        y = F.relu(self.bn1(self.conv1x3_1(y)))
        y = F.relu(self.conv3x1_2(y))
        y = self.dropout(self.bn2(self.conv1x3_2(y)))
        return F.relu(y + x)  # (B, channels, H, W), the shape of x


class Upsampler(nn.Module):
    """Twice the resolution by a transposed convolution."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            channels_in, channels_out, 3, stride=2, padding=1, output_padding=1
        )
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))  # (B, out, 2H, 2W)


class Encoder(nn.Module):
    """Images to features at an eighth of the resolution: (B, 3, H, W) -> (B, 128, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.initial_block = Downsampler(3, 16)
        layers: list[nn.Module] = [Downsampler(16, 64)]
        layers += [NonBottleneck1d(64, dropout=0.03) for _ in range(5)]
        layers += [Downsampler(64, 128)]
        layers += [NonBottleneck1d(128, dropout=0.3, dilation=d) for d in (2, 4, 8, 16) * 2]
        self.layers = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        x = self.initial_block(images)  # (B, 16, H/2, W/2)
        for layer in self.layers:
            x = layer(x)
        return x  # (B, 128, H/8, W/8)


class Decoder(nn.Module):
    """Features to class scores at full resolution: (B, 128, H/8, W/8) -> (B, S, H, W)."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                Upsampler(128, 64),
                NonBottleneck1d(64),
                NonBottleneck1d(64),
                Upsampler(64, 16),
                NonBottleneck1d(16),
                NonBottleneck1d(16),
            ]
        )
        self.output_conv = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    @property
    def num_classes(self) -> int:
        return self.output_conv.out_channels

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for layer in self.layers:
            x = layer(x)
        return self.output_conv(x)  # (B, S, H, W)


class ERFNet(nn.Module):
    """Encoder and decoder, with further decoders after it for FT and FE (Fig. 2).

    images (B, 3, H, W), H and W multiples of 8 -> logits (B, S, H, W). The logits of several
    decoders are concatenated, oldest first, so that channels stay ordered S1, S2, ...
    """

    def __init__(self, num_classes: int, *more_classes: int, normalise: bool = False):
        super().__init__()
        self.normalise = normalise  # images by ImageNet's mean and deviation, as the first step
        for classes in (num_classes, *more_classes):
            if not isinstance(classes, int) or classes < 1:
                raise ValueError(f"a decoder for {classes!r} classes; wanted a whole number from 1")
        self.encoder = Encoder()
        self.decoder = Decoder(num_classes)
        self.more_decoders = nn.ModuleList(Decoder(classes) for classes in more_classes)

    @property
    def decoders(self) -> list[Decoder]:
        """All decoders, oldest first."""
        return [self.decoder, *self.more_decoders]

    @property
    def num_classes(self) -> int:
        """Channels of the output, over all decoders."""
        return sum(decoder.num_classes for decoder in self.decoders)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2] % 8 or images.shape[-1] % 8:
            raise ValueError(
                f"images are {images.shape[-2]} x {images.shape[-1]} pixels; ERFNet halves them "
                "three times, so crop or resize height and width to multiples of 8"
            )
        if self.normalise:
            images = normalize(images, IMAGENET_MEAN, IMAGENET_DEVIATION)
        features = self.encoder(images)  # (B, 128, H/8, W/8)
        if not self.more_decoders:
            return self.decoder(features)  # (B, S, H, W)
        return torch.cat([decoder(features) for decoder in self.decoders], dim=1)


def add_classes(network: ERFNet, new: int) -> ERFNet:
    """A copy whose last layer has `new` more feature maps, for the teacher-based methods.

    Old weights are kept and new output channels are random. The paper starts each stage from
    random weights instead (footnote 2): TrainConfig.start chooses.
    """
    if network.more_decoders:
        raise ValueError(
            f"the network has {len(network.decoders)} decoders; a wider last layer is for "
            "networks with one. Use add_decoder, or a teacher trained by a teacher-based method"
        )
    wider = ERFNet(network.num_classes + new, normalise=network.normalise)
    state = network.state_dict()
    fresh = wider.state_dict()
    for key in ("decoder.output_conv.weight", "decoder.output_conv.bias"):
        old_channels = state[key]  # weight (16, O, 2, 2), bias (O,)
        grown = fresh[key].clone()
        if key.endswith("weight"):
            grown[:, : network.num_classes] = old_channels
        else:
            grown[: network.num_classes] = old_channels
        state[key] = grown
    wider.load_state_dict(state)
    return wider


def add_decoder(network: ERFNet, new: int) -> ERFNet:
    """A copy with one more decoder, for `new` classes, with random weights (Fig. 2)."""
    grown = deepcopy(network)
    grown.more_decoders.append(Decoder(new).to(next(network.parameters()).device))
    return grown


def start_as_identity(network: nn.Module) -> None:
    """Let each residual block begin as the identity, by a zero in its last batch-norm scale.

    Everything else stays random. The gradient then reaches all blocks undisturbed, and the first
    few hundred steps teach several times more (Goyal et al. 2017, Sec. 5.1).
    """
    for module in network.modules():
        if isinstance(module, NonBottleneck1d):
            nn.init.zeros_(module.bn2.weight)
