"""AlexNet with normalisation for small images."""

from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, kaiming, norm_layer

CONVOLUTIONS = ((1, 11, 4, True), (3, 5, 1, True), (6, 3, 1, False), (4, 3, 1, False), (4, 3, 1, True))
"""Channels, in multiples of the width, kernel, stride and whether a pool follows (Krizhevsky, arXiv:1404.5997)."""


class AlexNet(nn.Module):
    """Five convolutions, each with the normalisation that ``norm`` names, three 2x2 max-pools, and one linear layer.

    As usual for small images, the two hidden linear layers with their dropout are left out. Published ones have no
    normalisation, but biases.

    Args:
        spec: The number of classes and so on; a width of 64 is standard.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        channels, layers = len(spec.mean), list[nn.Module]()
        for factor, kernel, stride, pools in CONVOLUTIONS:
            outputs = factor * spec.width
            layers += [nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False)]
            layers += [norm_layer(spec.norm, outputs)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if pools else []  # before the ReLU, as in the VGG
            layers += [nn.ReLU()]
            channels = outputs
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, spec.num_classes)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, num_classes]."""
        return self.fc(self.body(self.normalize(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]
