"""A multilayer perceptron for feature vectors."""

from torch import Tensor, nn

from accupoison.models.layers import Normalize, norm_layer


class MLP(nn.Module):
    """Three hidden layers with normalisation and ReLU, of four, two and one times ``width`` units, and a linear head.

    No dropout: crafting differentiates through the network and must draw no random number.

    Args:
        num_classes: Number of classes.
        width: Units of the last hidden layer.
        norm: "batch", "group" or "group:N".
        mean: Feature means that the first step of ``forward`` subtracts.
        std: Feature standard deviations that it divides by.
    """

    def __init__(
        self, num_classes: int, width: int, norm: str, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std, pixels=False)
        layers, inputs = list[nn.Module](), len(mean)
        for outputs in (4 * width, 2 * width, width):
            layers += [nn.Linear(inputs, outputs, bias=False), norm_layer(norm, outputs, pixels=False), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, D] in [0, 1] to logits [B, num_classes].

        Raises:
            ValueError: The inputs are not vectors.
        """
        if x.ndim != 2:
            raise ValueError(f"an mlp takes feature vectors [B, D], not {list(x.shape)}")
        return self.fc(self.body(self.normalize(x)))  # type: ignore[no-any-return]
