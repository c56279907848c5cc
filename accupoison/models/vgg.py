"""VGG-16 with normalisation for small images."""

from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels, in multiples of the width, and convolutions of each stage (Simonyan and Zisserman, ICLR 2015, D)."""


class VGG(nn.Module):
    """Thirteen 3x3 convolutions with normalisation, a max-pool after each stage, and one linear layer.

    As usual for small images, the two hidden linear layers with their dropout are left out.

    Args:
        spec: The number of classes and so on; a width of 64 is standard.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        channels, layers = len(spec.mean), list[nn.Module]()
        for factor, count in STAGES:
            for _ in range(count):
                layers += [nn.Conv2d(channels, factor * spec.width, 3, 1, 1, bias=False)]
                layers += [norm_layer(spec.norm, factor * spec.width), nn.ReLU()]
                channels = factor * spec.width
            # a single pixel stays one: images below 32x32 work. Before the ReLU, which is the same on a quarter
            layers.insert(-1, nn.MaxPool2d(2, ceil_mode=True))
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, num_classes]."""
        return self.fc(self.body(self.normalize(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]
