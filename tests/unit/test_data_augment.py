import pytest
import torch
from torch import Generator, Tensor

from accupoison.data import crop_flip, quantise


def naive(x: Tensor, *, rng: Generator, flip: bool, pad: int) -> Tensor:
    """Crop image by image, pixel by pixel."""
    count, _, height, width = x.shape
    shift = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=rng)
    mirrored = torch.randint(0, 2, (count, 1), generator=rng)
    out = torch.zeros_like(x)
    for b in range(count):
        down, right = int(shift[0, b]) - pad, int(shift[1, b]) - pad
        for i in range(height):
            for j in range(width):
                column = width - 1 - j if flip and mirrored[b] else j
                if 0 <= i + down < height and 0 <= column + right < width:
                    out[b, :, i, j] = x[b, :, i + down, column + right]
    return out


def numbered(dtype: torch.dtype, height: int = 8, width: int = 6) -> Tensor:
    """Return images that have no two equal pixels within one and no zero."""
    pixels = torch.randperm(255, generator=Generator().manual_seed(0))[: 3 * height * width] + 1
    return pixels.view(1, 3, height, width).expand(16, -1, -1, -1).contiguous().to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_equals_the_naive_loop(dtype: torch.dtype, flip: bool, pad: int) -> None:
    x = numbered(dtype)
    before = x.clone()
    out = crop_flip(x, rng=Generator().manual_seed(5), flip=flip, pad=pad)
    assert torch.equal(out, naive(x, rng=Generator().manual_seed(5), flip=flip, pad=pad))
    assert out.dtype == dtype
    assert torch.equal(x, before)
    if flip or pad:
        assert not torch.equal(out, x)


def test_default_padding_is_an_eighth_of_the_height() -> None:
    x = numbered(torch.uint8, height=16, width=4)
    default, explicit = (crop_flip(x, rng=Generator().manual_seed(1), flip=True, pad=p) for p in (None, 2))
    assert torch.equal(default, explicit)


def test_same_seed_same_crop_for_clean_and_poisoned() -> None:
    clean = numbered(torch.float64)
    delta = torch.full_like(clean, 0.25)
    both = [crop_flip(x, rng=Generator().manual_seed(9), flip=True) for x in (clean, clean + delta)]
    assert set((both[1] - both[0]).flatten().tolist()) <= {0.0, 0.25}
    assert torch.equal((both[1] - both[0]) == 0.25, both[0] != 0)


def test_every_shift_and_both_directions_come_up() -> None:
    point = torch.zeros(2000, 1, 5, 5)
    point[:, :, 2, 2] = 1
    where = crop_flip(point, rng=Generator().manual_seed(0), flip=False, pad=2).flatten(1).argmax(1)
    assert torch.bincount(where, minlength=25).min() > 40  # 80 expected
    slope = torch.arange(2.0).expand(2000, 1, 2, 2)
    mirrored = crop_flip(slope, rng=Generator().manual_seed(0), flip=True, pad=0)[:, 0, 0, 0].mean()
    assert 0.45 < float(mirrored) < 0.55


def test_gradients_pass_through_the_crop() -> None:
    x = numbered(torch.float64).requires_grad_()
    out = crop_flip(x, rng=Generator().manual_seed(3), flip=True, pad=2)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad.sum((1, 2, 3)), (out != 0).double().sum((1, 2, 3)))


@pytest.mark.parametrize("eps", [1, 8, 16, 51])
def test_quantise_keeps_the_whole_budget(eps: int) -> None:
    clean = torch.arange(256).float() / 255
    up = torch.clamp(clean + eps / 255, max=1)
    down = torch.clamp(clean - eps / 255, min=0)
    assert torch.equal((quantise(up, clean) * 255).round(), torch.clamp(torch.arange(256.0) + eps, max=255))
    assert torch.equal((quantise(down, clean) * 255).round(), torch.clamp(torch.arange(256.0) - eps, min=0))


def test_quantise_rounds_toward_the_clean_pixel() -> None:
    clean = torch.tensor([100, 100, 100, 100, 0, 255]) / 255
    x = torch.tensor([100.9, 99.1, 110.5, 89.5, 0.999, 254.001]) / 255
    assert torch.equal(quantise(x, clean), torch.tensor([100, 100, 110, 90, 0, 255]) / 255)
