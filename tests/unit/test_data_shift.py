import pytest
import torch
from torch import Tensor

from accupoison.data import Shift
from accupoison.data.corruptions import SHIFTS
from accupoison.device import compute_on
from tests.messages import refuses

LAST = 10


def scene(count: int = 12) -> tuple[Tensor, Tensor]:
    levels = torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(2))
    return levels.float() / 255, torch.arange(count) * 37


def test_severity_rises_linearly_and_stays() -> None:
    shift = Shift("blur", 0, 11)
    assert [shift.severity(t) for t in (0, 1, 5, 10, 25)] == [0, 0.1, 0.5, 1, 1]
    assert Shift("blur", 0, 1).severity(0) == 0


@pytest.mark.parametrize("name", SHIFTS)
def test_starts_at_nothing_and_grows(name: str) -> None:
    x, ids = scene()
    shift = Shift(name, 1, LAST + 1)
    assert torch.equal(shift(x, ids, 0), x)
    distance = [float((shift(x, ids, t) - x).abs().mean()) for t in (1, 4, 7, LAST)]
    assert distance == sorted(distance)
    assert distance[0] > 0.003
    assert distance[-1] > 0.05


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stays_on_the_grid_and_leaves_its_input(name: str, dtype: torch.dtype) -> None:
    x, ids = scene()
    x = x.to(dtype)
    before = x.clone()
    out = Shift(name, 1, LAST + 1)(x, ids, 6)
    assert out.dtype == dtype
    assert out.shape == x.shape
    assert torch.equal(out, (out * 255).round() / 255)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", SHIFTS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    x, ids = scene()
    shift = Shift(name, 1, LAST + 1)
    whole = shift(x, ids, 8)
    order = torch.tensor([7, 2, 11])
    alone = shift(x[order], ids[order], 8)
    assert (alone - whole[order]).abs().max() <= 1 / 255 + 1e-6  # a convolution may round differently in another batch
    assert (alone != whole[order]).float().mean() < 0.01


@pytest.mark.parametrize("name", ["gaussian_noise", "fog"])
def test_noise_depends_on_seed_id_and_step(name: str) -> None:
    x, ids = scene(6)
    x = torch.full_like(x, 0.5)
    base = Shift(name, 1, 3)(x, ids, 2)
    assert torch.equal(base, Shift(name, 1, 3)(x, ids, 2))
    assert len({tuple(row.flatten().tolist()) for row in base}) == 6
    for other in (Shift(name, 2, 3)(x, ids, 2), Shift(name, 1, 3)(x, ids + 1, 2), Shift(name, 1, 3)(x, ids, 3)):
        assert all(not torch.equal(a, b) for a, b in zip(base, other, strict=True))


def test_noise_has_its_size() -> None:
    x, ids = torch.full((200, 3, 16, 16), 0.5), torch.arange(200)
    noise = Shift("gaussian_noise", 0, 3)(x, ids, 2) - 0.5
    assert abs(float(noise.mean())) < 0.003
    assert float(noise.std()) == pytest.approx(0.12, rel=0.03)
    rows = noise.flatten(1)
    correlation = torch.corrcoef(rows) - torch.eye(200)
    assert correlation.abs().max() < 0.25  # 768 values a row: 0.036 is one standard deviation


def test_fabricated_ids_are_welcome() -> None:
    x, _ = scene(2)
    out = Shift("gaussian_noise", 0, 3)(x, torch.tensor([-1, -(2**62)]), 2)
    assert not torch.equal(out, x)


def test_contrast_and_brightness_by_hand() -> None:
    x = torch.tensor([0.0, 51.0, 255.0]).view(1, 1, 1, 3).expand(1, 3, 1, 3) / 255
    ids = torch.tensor([0])
    assert (Shift("contrast", 0, 2)(x, ids, 1)[0, 0, 0] * 255).tolist() == pytest.approx([87, 94, 125], abs=1e-3)
    assert (Shift("brightness", 0, 2)(x, ids, 1)[0, 0, 0] * 255).tolist() == pytest.approx([128, 178, 255], abs=1)


def test_blur_keeps_flat_images_and_spreads_a_point() -> None:
    blur, ids = Shift("blur", 0, 2), torch.tensor([0])
    flat = torch.full((1, 3, 8, 8), 100 / 255)
    assert torch.equal(blur(flat, ids, 1), flat)
    point = torch.zeros(1, 3, 15, 15)
    point[..., 7, 7] = 1
    out = blur(point, ids, 1)
    assert torch.equal(out, out.flip(-1))
    assert torch.equal(out, out.transpose(-1, -2))
    assert 0.05 < float(out.max()) < 0.1
    assert float(out[0, 0].sum()) == pytest.approx(1, abs=0.1)


@pytest.mark.cuda
def test_blur_is_not_rounded_to_tf32_on_a_gpu() -> None:
    compute_on("cuda", "tf32")
    (x, ids), blur = scene(), Shift("blur", 0, LAST + 1)
    other = blur(x.cuda(), ids.cuda(), 7).cpu() != blur(x, ids, 7)
    assert float(other.float().mean()) < 1e-3  # of a level, where rounding falls another way


def test_bad_input() -> None:
    with refuses("shift 'contrst' contrast"):
        Shift("contrst", 0, 5)
    with refuses("length shift 0 steps 1"):
        Shift("blur", 0, 0)
