"""Residual networks: the released ResNet-18 for 32x32 images, deeper ones, and a three-block net for small images."""

import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR 2016, Fig. 5 left)."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(norm, outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut (He et al., CVPR 2016, Fig. 5 right), the 3x3 with the stride.

    Args:
        inputs: Channels that come in.
        middle: Channels of the 3x3 convolution; four times as many go out.
        stride: Of the 3x3 convolution.
        norm: As in the specification.
    """

    expansion = 4

    def __init__(self, inputs: int, middle: int, stride: int, norm: str) -> None:
        super().__init__()
        outputs = self.expansion * middle
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = norm_layer(norm, middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = norm_layer(norm, middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = norm_layer(norm, outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(norm, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 * middle, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class ResNet(nn.Module):
    """A residual network whose state dict has the names of torchvision's, so that the released checkpoints load.

    Args:
        blocks: Residual blocks in each stage; stage k has ``width * 2**k`` channels, or their ``expansion`` as many.
        spec: The number of classes and so on; the first stage has ``width`` channels.
        pool: Max-pool 3/2/1 after the first convolution, as the released ResNet-18 does.
        block: What the stages are made of.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        spec: ModelSpec,
        *,
        pool: bool,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        self.conv1 = nn.Conv2d(len(spec.mean), spec.width, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(spec.norm, spec.width)
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        channels, self.stages = spec.width, len(blocks)
        for stage, count in enumerate(blocks):
            layers = []
            for first in (True, *(count - 1) * [False]):
                layers.append(block(channels, spec.width * 2**stage, 2 if stage and first else 1, spec.norm))
                channels = block.expansion * spec.width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, num_classes]."""
        out = F.relu(self.pool(self.bn1(self.conv1(self.normalize(x)))))  # the same after the pool, on a quarter
        for stage in range(self.stages):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        return self.fc(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]
