"""A multilayer perceptron for feature vectors."""

from torch import Tensor, nn

from accupoison.models.layers import ModelSpec, Normalize, norm_layer


class MLP(nn.Module):
    """Three hidden layers with normalisation and ReLU, of four, two and one times ``width`` units, and a linear head.

    No dropout: crafting differentiates through the network and must draw no random number.

    Args:
        spec: The number of classes and so on; the last hidden layer has ``width`` units.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.normalize = Normalize(spec.mean, spec.std, pixels=False)
        layers, inputs = list[nn.Module](), len(spec.mean)
        for outputs in (4 * spec.width, 2 * spec.width, spec.width):
            layers += [nn.Linear(inputs, outputs, bias=False), norm_layer(spec.norm, outputs, pixels=False), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.fc = nn.Linear(inputs, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, D] in [0, 1] to logits [B, num_classes].

        Raises:
            ValueError: The inputs are not vectors.
        """
        if x.ndim != 2:
            raise ValueError(f"an mlp takes feature vectors [B, D], not {list(x.shape)}")
        return self.fc(self.body(self.normalize(x)))  # type: ignore[no-any-return]
