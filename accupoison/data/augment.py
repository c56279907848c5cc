"""Random crop and flip, and rounding to 8 bits."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

# In levels of 1/255. Adding eps to a pixel leaves float32 within 4e-5 levels of the grid; see `quantise`.
ON_GRID = 1e-4


def crop_flip(x: Tensor, *, rng: Generator, flip: bool, pad: int | None = None) -> Tensor:
    """Return a random crop of each zero-padded image, half of them mirrored.

    The draw depends on ``rng``, the batch size and ``pad`` alone, so a clean batch and its poisoned version get the
    same crop from two generators with the same seed, on any device.

    Args:
        x: Images [B, C, H, W], floating or uint8; left as they are.
        rng: CPU generator; moves on.
        flip: Mirror half of the images.
        pad: Pixels added at each side, which is the largest shift; default ``H // 8``.

    Returns:
        Images of the same shape and dtype.
    """
    count, channels, height, width = x.shape
    pad = height // 8 if pad is None else pad
    shift = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=rng).to(x.device)
    mirrored = torch.randint(0, 2, (count, 1), generator=rng).bool()  # drawn always: flip=False gets the same crop
    column = torch.arange(width, device=x.device)
    if flip:
        column = torch.where(mirrored.to(x.device), column.flip(0), column)
    rows, columns = shift[0] + torch.arange(height, device=x.device), shift[1] + column
    # One gather over flattened pixels is several times faster than a slice an image.
    index = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(count, 1, height * width)
    padded = F.pad(x, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, index.expand(-1, channels, -1)).view_as(x)


def quantise(x: Tensor, clean: Tensor) -> Tensor:
    """Round to the 8-bit grid, always toward the clean pixel, so that no pixel leaves its ball around ``clean``.

    ``|q - clean| <= |x - clean|`` holds to 4e-7, the float error of ``clean + eps`` itself: without this allowance a
    pixel at the rim of the ball would lose a whole level to rounding noise. A value on the grid stays bit for bit.

    Args:
        x: Images [B, ...] in [0, 1].
        clean: Clean images [B, ...] on the 8-bit grid.

    Returns:
        Multiples of 1/255, in the shape and dtype of ``x``.
    """
    level, clean_level = x * 255, (clean.to(x.dtype) * 255).round()
    nearest = level.round()
    toward = clean_level + (level - clean_level).trunc()
    return torch.where((level - nearest).abs() <= ON_GRID, nearest, toward) / 255
