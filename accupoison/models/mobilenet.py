"""MobileNetV2 for small images."""

import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride (Sandler et al., CVPR 2018, Table 2), the first two strides taken away."""
FIRST, LAST, STANDARD = 32, 1280, 64


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; with a shortcut where the shape stays (Sandler et al., CVPR 2018, Fig. 4d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, norm: str) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand: nn.Module | None = None
        if expansion > 1:
            self.expand = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), norm_layer(norm, hidden), nn.ReLU6())
        self.conv1 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn1 = norm_layer(norm, hidden)
        self.conv2 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn2 = norm_layer(norm, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        out: Tensor = x if self.expand is None else self.expand(x)
        out = F.relu6(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2, without the published classifier's dropout: crafting draws no random number.

    Args:
        spec: The number of classes and so on. A width of 64 is standard; all channels scale with it, so the first
            convolution has half as many.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        channels, layers = _scaled(FIRST, spec.width), list[nn.Module]()
        self.conv1 = nn.Conv2d(len(spec.mean), channels, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(spec.norm, channels)
        for expansion, standard, count, stride in STAGES:
            for block in range(count):
                outputs = _scaled(standard, spec.width)
                layers.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expansion, spec.norm))
                channels = outputs
        self.layers = nn.Sequential(*layers)
        self.conv2 = nn.Conv2d(channels, _scaled(LAST, spec.width), 1, bias=False)
        self.bn2 = norm_layer(spec.norm, _scaled(LAST, spec.width))
        self.fc = nn.Linear(_scaled(LAST, spec.width), spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, num_classes]."""
        out = F.relu6(self.bn1(self.conv1(self.normalize(x))))
        out = F.relu6(self.bn2(self.conv2(self.layers(out))))
        return self.fc(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def _scaled(channels: int, width: int) -> int:
    return max(1, round(channels * width / STANDARD))
