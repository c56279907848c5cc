"""Pre-activation residual networks, ordinary and wide."""

import torch.nn.functional as F
from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer


class PreActBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions (He et al., ECCV 2016, Fig. 4e)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.bn1 = norm_layer(norm, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = norm_layer(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        active = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out = self.conv1(active)
        return self.conv2(F.relu(self.bn2(out))) + shortcut  # type: ignore[no-any-return]


class PreActResNet(nn.Module):
    """Stages of pre-activation blocks, without a max-pool and without dropout.

    Three stages of four blocks, ten times as wide, are WRN-28-10 (Zagoruyko and Komodakis, BMVC 2016, Table 1), whose
    standard width is 16.

    Args:
        blocks: Residual blocks in each stage; stage k has ``widen * width * 2**k`` channels.
        spec: The number of classes and so on; the first convolution has ``width`` channels.
        widen: See ``blocks``.
    """

    def __init__(self, blocks: tuple[int, ...], spec: ModelSpec, *, widen: int = 1) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        self.conv1 = nn.Conv2d(len(spec.mean), spec.width, 3, 1, 1, bias=False)
        channels, layers = spec.width, list[nn.Module]()
        for stage, count in enumerate(blocks):
            for block in range(count):
                outputs = widen * spec.width * 2**stage
                layers.append(PreActBlock(channels, outputs, 2 if stage > 0 and block == 0 else 1, spec.norm))
                channels = outputs
        self.layers = nn.Sequential(*layers)
        self.bn = norm_layer(spec.norm, channels)
        self.fc = nn.Linear(channels, spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, num_classes]."""
        out = F.relu(self.bn(self.layers(self.conv1(self.normalize(x)))))
        return self.fc(out.mean(dim=(2, 3)))  # type: ignore[no-any-return]
