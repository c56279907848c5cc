"""Multilayer perceptrons for feature vectors."""

from collections.abc import Sequence
from itertools import pairwise

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


class PlainMLP(nn.Module):
    """Linear layers with ReLU, and neither norm nor dropout, such as the network of MemGuard (Jia et al., CCS 2019).

    Its four hidden layers have eight, four, two and one times ``width`` units, and its width is 128. Weights are drawn
    as Keras does (Glorot and Bengio, AISTATS 2010) and biases are 0: with PyTorch's smaller weights, five layers hardly
    learn at its rate of 0.01. Features are taken as they are.

    Args:
        spec: The number of classes and of features, and the width.
        scales: Units of each hidden layer, as multiples of the width.
    """

    def __init__(self, spec: ModelSpec, scales: tuple[int, ...] = (8, 4, 2, 1)) -> None:
        super().__init__()
        self.body = dense(len(spec.mean), tuple(scale * spec.width for scale in scales), spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [B, D] in [0, 1] to logits [B, num_classes].

        Raises:
            ValueError: The inputs are not vectors.
        """
        if x.ndim != 2:
            raise ValueError(f"a multilayer perceptron takes feature vectors [B, D], not {list(x.shape)}")
        return self.body(x)  # type: ignore[no-any-return]


def dense(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Return linear layers with ReLU between them, initialised as Keras does.

    Args:
        inputs: Units that go in.
        hidden: Units of the hidden layers.
        outputs: Units that come out.
    """
    layers = list[nn.Module]()
    for before, after in pairwise((inputs, *hidden, outputs)):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
