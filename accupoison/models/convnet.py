"""A small plain convolutional network."""

from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, norm_layer


class ConvNet(nn.Module):
    """Three convolutions with normalisation and ReLU, each followed by a 2x2 max-pool, and a linear head.

    Args:
        spec: The number of classes and so on. The first convolution has ``width`` channels, the others twice and four
            times as many.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std)
        layers: list[nn.Module] = []
        channels = len(spec.mean)
        for outputs in (spec.width, 2 * spec.width, 4 * spec.width):
            layers += [
                nn.Conv2d(channels, outputs, 3, 1, 1, bias=False),
                norm_layer(spec.norm, outputs),
                nn.MaxPool2d(2),
                nn.ReLU(),  # the same as before the pool, on a quarter
            ]
            channels = outputs
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1], at least 8x8, to logits [B, num_classes]."""
        return self.fc(self.body(self.normalize(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]
