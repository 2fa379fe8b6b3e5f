"""LR-ASPP on MobileNetV3 (Howard et al. 2019), by torchvision: a network of another kind."""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.models.segmentation.lraspp import LRASPPHead

from cilkit.networks.base import Segmenter

LOW, HIGH, INNER = 40, 960, 128  # channels of the features at strides 8 and 16, and of the head


class Head(LRASPPHead):
    """Features at two resolutions to class scores at that of the images: (B, S, H, W)."""

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        logits = super().forward(features)  # (B, S, H/8, W/8)
        return F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)


class LRASPP(Segmenter):
    """MobileNetV3-Large, whose features at strides 8 and 16 meet in a small head."""

    def new_encoder(self) -> nn.Module:
        return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).backbone

    def new_decoder(self, classes: int) -> Head:
        return Head(LOW, HIGH, classes, INNER)

    def residual_end(self, module: nn.Module) -> nn.BatchNorm2d | None:
        is_residual = isinstance(module, InvertedResidual) and module.use_res_connect
        return module.block[-1][1] if is_residual else None
