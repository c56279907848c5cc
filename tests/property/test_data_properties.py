import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from accupoison.data import DataSet, SplitSizes, crop_flip, load, make_stream, quantise, split
from accupoison.errors import InputError

DTYPES = st.sampled_from([torch.float32, torch.float64])
LEVELS = st.lists(st.integers(0, 255), min_size=1, max_size=20)


@given(st.data(), DTYPES)
def test_quantise_stays_in_the_ball_and_on_the_grid(data: st.DataObject, dtype: torch.dtype) -> None:
    levels = data.draw(LEVELS)
    pixel = st.floats(0, 1) if dtype == torch.float64 else st.floats(0, 1, width=32)
    x = torch.tensor(data.draw(st.lists(pixel, min_size=len(levels), max_size=len(levels))), dtype=dtype)
    clean = torch.tensor(levels, dtype=dtype) / 255
    q = quantise(x, clean)
    assert q.dtype == dtype
    assert torch.equal(q, (q * 255).round() / 255)
    assert ((q - clean).abs() <= (x - clean).abs() + 5e-7).all()
    assert ((q - x).abs() < 1 / 255 + 1e-7).all()  # and no further from x than one level
    assert torch.equal(quantise(q, clean), q)


@given(st.data(), DTYPES)
def test_quantise_leaves_grid_values_bit_for_bit(data: st.DataObject, dtype: torch.dtype) -> None:
    levels = data.draw(LEVELS)
    other = data.draw(st.lists(st.integers(0, 255), min_size=len(levels), max_size=len(levels)))
    x, clean = torch.tensor(levels, dtype=torch.uint8).to(dtype) / 255, torch.tensor(other, dtype=dtype) / 255
    assert torch.equal(quantise(x, clean), x)


@given(LEVELS, st.integers(0, 64), st.floats(0, 1))
def test_quantise_never_costs_an_attacker_a_level(levels: list[int], eps: int, share: float) -> None:
    clean = torch.tensor(levels, dtype=torch.float32) / 255
    x = (clean + eps / 255).clamp(0, 1)
    moved = (quantise(x, clean) - clean) * 255
    assert torch.equal(moved.round(), torch.tensor(levels).add(eps).clamp(max=255).sub(torch.tensor(levels)).float())
    inside = quantise((clean + share * eps / 255).clamp(0, 1), clean)
    assert ((inside - clean) * 255).abs().max() <= eps + 1e-3


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.booleans(), st.integers(0, 2**62))
def test_a_crop_is_a_window_of_the_padded_image(
    count: int, height: int, width: int, pad: int, flip: bool, seed: int
) -> None:
    pixels = torch.arange(1, height * width + 1, dtype=torch.float64)
    x = pixels.view(1, 1, height, width).repeat(count, 2, 1, 1)
    out = crop_flip(x, rng=Generator().manual_seed(seed), flip=flip, pad=pad)
    padded = torch.nn.functional.pad(x[0, 0], (pad, pad, pad, pad))
    windows = {
        tuple(window.flatten().tolist())
        for i in range(2 * pad + 1)
        for j in range(2 * pad + 1)
        for plain in [padded[i : i + height, j : j + width]]
        for window in ([plain, plain.flip(1)] if flip else [plain])
    }
    for image in out:
        assert torch.equal(image[0], image[1])
        assert tuple(image[0].flatten().tolist()) in windows


def blank(train: int, test: int) -> DataSet:
    x, y = torch.zeros(train + test, 3, 1, 1, dtype=torch.uint8), torch.zeros(train + test, dtype=torch.int64)
    return DataSet("blank", x[:train], y[:train], x[train:], y[train:], ("a",), flip=True)


@given(st.integers(6, 300), st.lists(st.integers(0, 200), min_size=6, max_size=6), st.integers(0, 5))
def test_splits_are_disjoint_whatever_the_sizes(train: int, wanted: list[int], seed: int) -> None:
    names = ("burnin", "stream", "trigger", "val", "trusted", "monitor")
    sizes = SplitSizes(**dict(zip(names, wanted, strict=True)))
    splits = split(blank(train, 3), seed=seed, sizes=sizes)
    parts = [getattr(splits, name) for name in names]
    ids = torch.cat(parts)
    assert len(set(ids.tolist())) == len(ids) <= train
    assert bool(((ids >= 0) & (ids < train)).all())
    got = [len(part) for part in parts]
    assert all((g > 0) == (w > 0) and g <= w for g, w in zip(got, wanted, strict=True))
    assert (got == wanted) == (splits.note == "")
    assert got == wanted or sum(wanted) > train


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 2**40))
def test_cycling_batches_concatenate_to_whole_passes(batch_size: int, length: int, seed: int) -> None:
    data = blank(60, 3)
    splits = split(data, sizes=SplitSizes(burnin=20, stream=9, trigger=8, val=1, trusted=1, monitor=1))
    stream = make_stream("cycling", data, splits, batch_size=batch_size, length=length, seed=seed)
    ids = torch.cat([stream.ids(t) for t in range(length)]).tolist()
    assert len(ids) == batch_size * length
    for start in range(0, len(ids), 9):
        turn = ids[start : start + 9]
        assert len(set(turn)) == len(turn)
        assert set(turn) <= set(splits.stream.tolist())


def good_npz() -> bytes:
    buffer = io.BytesIO()
    x, y = np.full((3, 2, 2, 3), 7, np.uint8), np.array([0, 1, 0])
    np.savez_compressed(buffer, train_x=x, train_y=y, test_x=x, test_y=y, classes=np.array(["a", "b"]))
    return buffer.getvalue()


GOOD = good_npz()


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_npz_loads_right_or_raises_input_error(position: int, mask: int, cut: bool) -> None:
    damaged = bytearray(GOOD[:position] if cut else GOOD)
    if not cut:
        damaged[position] ^= mask
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile and numpy may also remark on what they see
        path = Path(folder) / "damaged.npz"
        path.write_bytes(damaged)
        try:
            data = load(f"npz:{path}")
        except InputError:
            return
        assert set(data.train_x.flatten().tolist()) == {7}
        assert data.test_y.tolist() == [0, 1, 0]
