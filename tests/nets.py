"""Networks that the tests share."""

import torch
from torch import Tensor, nn

from accupoison.models.factory import MODELS
from accupoison.types import Batch

FEATURE_MODELS = ("mlp", "memguard-mlp", "shallow-mlp")
IMAGE_MODELS = [name for name in MODELS.names() if name not in FEATURE_MODELS and not MODELS.offered(name)]


def tiny_net(num_classes: int = 10) -> nn.Sequential:
    """Return the network behind the golden vectors: images [B, 3, H, W] without normalisation, to logits."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


def frozen_net(num_classes: int = 10) -> nn.Sequential:
    """Return the same network with a first layer that is not trained."""
    net = tiny_net(num_classes)
    net[0].requires_grad_(False)
    return net


def random_batch(seed: int, rows: int = 6, *, size: int = 8, dtype: torch.dtype = torch.float64) -> Batch:
    """Return random images on the 8-bit grid with random labels."""
    rng = torch.Generator().manual_seed(seed)
    pixels: Tensor = torch.randint(256, (rows, 3, size, size), generator=rng)
    return Batch(pixels.to(dtype) / 255, torch.randint(10, (rows,), generator=rng), torch.arange(rows) + 1000 * seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return normally distributed numbers in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_net(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a tiny net with random weights and running statistics, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = tiny_net()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net.to(dtype).eval()
