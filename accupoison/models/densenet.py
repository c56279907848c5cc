"""DenseNet-121 for small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer

BLOCKS = (6, 12, 24, 16)
"""Layers of each dense block (Huang et al., CVPR 2017, Table 1)."""


class DenseLayer(nn.Module):
    """Normalisation, ReLU and a convolution, 1x1 to four times the growth and 3x3; its input stays beside its output.

    Args:
        inputs: Channels that come in.
        growth: Channels that are added.
        norm: As in the specification.
    """

    def __init__(self, inputs: int, growth: int, norm: str) -> None:
        super().__init__()
        self.bn1 = norm_layer(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = norm_layer(norm, 4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, inputs + growth, H, W]."""
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([x, self.conv2(F.relu(self.bn2(out)))], dim=1)


class DenseNet(nn.Module):
    """Four dense blocks; between them 1x1 convolutions halve the channels and 2x2 means the map.

    Args:
        spec: The number of classes and so on. A width of 64 is standard: so many channels has the first convolution
            (3x3, without norm and pool), and half as many are each layer's growth.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        growth = max(1, spec.width // 2)
        channels, layers = 2 * growth, list[nn.Module]()
        self.conv1 = nn.Conv2d(len(spec.mean), channels, 3, 1, 1, bias=False)
        for block, count in enumerate(BLOCKS):
            if block:
                layers += [norm_layer(spec.norm, channels), nn.ReLU()]
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
            layers += [DenseLayer(channels + i * growth, growth, spec.norm) for i in range(count)]
            channels += count * growth
        self.layers = nn.Sequential(*layers)
        self.bn = norm_layer(spec.norm, channels)
        self.fc = nn.Linear(channels, spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1], at least 8x8, to logits [B, num_classes]."""
        out = F.relu(self.bn(self.layers(self.conv1(self.normalize(x)))))
        return self.fc(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]
