"""Image corruptions that grow as a stream goes on, so that a model that does not learn falls behind."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from accupoison.errors import InputError, check_choice
from accupoison.rng import generator

# A prime number of offsets and a stride prime to it give every id below it a stretch of noise of its own.
BANK, STRIDE = 262_147, 100_003
BLUR_RADIUS = 5


@dataclass(frozen=True)
class Shift:
    """A corruption whose severity rises linearly from 0 to 1 over a stream.

    A corrupted image depends on (seed, id, t) alone, not on the batch it comes in.

    Attributes:
        name: One of ``SHIFTS``.
        seed: Decides the noise.
        length: Steps of the stream; severity is 1 at the last one and stays there.

    Raises:
        InputError: The name is unknown or the length is not positive.
    """

    name: str
    seed: int
    length: int

    def __post_init__(self) -> None:
        check_choice("shift", self.name, SHIFTS)
        if self.length < 1:
            raise InputError(f"the length of a shift is {self.length} steps; give 1 or more")

    def severity(self, t: int) -> float:
        """Return the severity at step ``t``, in [0, 1]."""
        return min(max(t / max(self.length - 1, 1), 0.0), 1.0)

    def __call__(self, x: Tensor, ids: Tensor, t: int) -> Tensor:
        """Corrupt images as the world is at step ``t``.

        Args:
            x: Floating images [B, C, H, W] in [0, 1].
            ids: Their ids, int64 [B].
            t: The step.

        Returns:
            Images in the shape and dtype of ``x``, in [0, 1] on the 8-bit grid; ``x`` itself at severity 0.
        """
        severity = self.severity(t)
        if severity == 0:
            return x

        def noise(values: int) -> Tensor:
            """Return standard normal values [B, values]: for each id its stretch of a bank drawn anew at each step."""
            bank = torch.randn(BANK + values, generator=generator(self.seed, "shift", t))
            return bank.unfold(0, values, 1)[ids.cpu() % BANK * STRIDE % BANK].to(x)

        out = _CORRUPTIONS[self.name](x, severity, noise)
        return (out.clamp(0, 1) * 255).round() / 255


Draw = Callable[[int], Tensor]


def _contrast(x: Tensor, severity: float, noise: Draw) -> Tensor:
    """Less contrast, in the end 15% of it."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 - 0.85 * severity)


def _brightness(x: Tensor, severity: float, noise: Draw) -> Tensor:
    """More light, in the end half of the range."""
    return x + 0.5 * severity


def _gaussian_noise(x: Tensor, severity: float, noise: Draw) -> Tensor:
    """Normal noise, in the end of standard deviation 0.12."""
    return x + 0.12 * severity * noise(math.prod(x.shape[1:])).view_as(x)


def _blur(x: Tensor, severity: float, noise: Draw) -> Tensor:
    """Blur by a Gaussian, in the end of standard deviation 1.5 pixels."""
    # The variance grows linearly: a small sigma does nothing at all on a pixel grid.
    sigma = 1.5 * math.sqrt(severity)
    wide = x.double() if x.is_cuda else x  # float32 products may be rounded to TF32 there, and pixels with them
    down, across = (_smoothing(side, sigma).to(wide) for side in x.shape[2:])
    return (down @ wide @ across.T).to(x)


def _smoothing(side: int, sigma: float) -> Tensor:
    """Return the Gaussian of width ``sigma`` with repeated borders as a matrix [side, side].

    On small images two matrix products are some ten times faster than a convolution of one-channel planes.
    """
    pixels, offsets = torch.arange(side), torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    taps = torch.softmax(-0.5 * (offsets.double() / sigma) ** 2, dim=0)
    sources = (pixels[:, None] + offsets).clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add(1, sources, taps.expand(side, -1))


def _fog(x: Tensor, severity: float, noise: Draw) -> Tensor:
    """Fog in clouds, in the end of density 0.75."""
    clouds = F.interpolate(noise(16).view(-1, 1, 4, 4), size=x.shape[2:], mode="bilinear", align_corners=False)
    density = 0.75 * severity
    return x * (1 - density) + density * (0.7 + 0.3 * torch.tanh(clouds))


_CORRUPTIONS: dict[str, Callable[[Tensor, float, Draw], Tensor]] = {
    "contrast": _contrast,
    "brightness": _brightness,
    "gaussian_noise": _gaussian_noise,
    "blur": _blur,
    "fog": _fog,
}
SHIFTS = {name: corrupt.__doc__ or "" for name, corrupt in _CORRUPTIONS.items()}
"""The corruptions that ``shift:NAME`` streams offer, each with what it does."""
