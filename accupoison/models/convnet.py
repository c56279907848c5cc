"""A small plain convolutional network."""

from torch import Tensor, nn

from accupoison.models.layers import Normalize, norm_layer


class ConvNet(nn.Module):
    """Three convolutions with normalisation and ReLU, each followed by a 2x2 max-pool, and a linear head.

    Args:
        num_classes: Number of classes.
        width: Channels of the first convolution; the others have twice and four times as many.
        norm: "batch" or "group".
        mean: Channel means that the first step of ``forward`` subtracts.
        std: Channel standard deviations that it divides by.
    """

    def __init__(
        self, num_classes: int, width: int, norm: str, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        layers: list[nn.Module] = []
        channels = len(mean)
        for outputs in (width, 2 * width, 4 * width):
            layers += [
                nn.Conv2d(channels, outputs, 3, 1, 1, bias=False),
                norm_layer(norm, outputs),
                nn.MaxPool2d(2),
                nn.ReLU(),  # the same as before the pool, on a quarter
            ]
            channels = outputs
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1], at least 8x8, to logits [B, num_classes]."""
        return self.fc(self.body(self.normalize(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]
