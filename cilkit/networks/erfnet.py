"""ERFNet (reference [16]), the network of the paper.

Module and parameter names are those of the published weight files, so these load as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cilkit.networks.base import Segmenter


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

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for layer in self.layers:
            x = layer(x)
        return self.output_conv(x)  # (B, S, H, W)


class ERFNet(Segmenter):
    """Encoder and decoder of the paper, with further decoders after it for FT and FE (Fig. 2)."""

    def new_encoder(self) -> Encoder:
        return Encoder()

    def new_decoder(self, classes: int) -> Decoder:
        return Decoder(classes)

    def residual_end(self, module: nn.Module) -> nn.BatchNorm2d | None:
        return module.bn2 if isinstance(module, NonBottleneck1d) else None
