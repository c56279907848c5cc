"""Strips of images can be read in TensorBoard."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accupoison.measure.strips import COLUMNS, GAP, LINE, TILE, strips
from accupoison.models.view import view_of
from accupoison.types import Batch
from tests.simulations import step_of

CARD = 350
"""Pixels of TensorBoard's card."""


class First(nn.Module):
    """Takes every image for class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), 2)


def drawn(clean: Batch, sent: Batch, seen: Batch) -> NDArray[np.uint8]:
    return strips(step_of(clean, sent, seen), view_of(First()), ["cat", "automobile"], 8)


def cell(picture: NDArray[np.uint8], row: int, column: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image and what is written below it."""
    top, left = LINE + GAP + row * (TILE + GAP + 2 * LINE), GAP + column * (TILE + GAP)
    image = picture[top : top + TILE, left : left + TILE]
    return image, picture[top + TILE : top + TILE + 2 * LINE, left : left + TILE]


def red(pixels: NDArray[np.uint8]) -> int:
    return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 100) & (pixels[..., 2] < 100)).sum())


@pytest.mark.parametrize("side", [8, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_is_clean_sent_seen_and_difference_as_wide_as_a_card(side: int, channels: int) -> None:
    x, y, ids = torch.full((2, channels, side, side), 0.5), torch.tensor([0, 1]), torch.tensor([5, 6])
    clean, sent, seen = Batch(x, y, ids), Batch(x + 0.03125, y, ids), Batch(x[1:] + 0.25, y[1:], ids[1:])
    picture = drawn(clean, sent, seen)
    assert picture.shape[1] == CARD, "TensorBoard drops columns of a wider picture, of its words too"
    shown = [[set(cell(picture, row, column)[0].ravel().tolist()) for column in range(len(COLUMNS))] for row in (0, 1)]
    assert shown == [[{128}, {135}, {255}, {191}], [{128}, {135}, {191}, {191}]], "the first row was dropped"


def test_labels_are_below_images_and_wrong_predictions_in_red() -> None:
    batch = Batch(torch.full((2, 3, 8, 8), 0.5), torch.tensor([0, 1]), torch.tensor([5, 6]))
    picture = drawn(batch, batch, batch)
    for column in range(3):
        right, wrong = (cell(picture, row, column)[1] for row in (0, 1))
        assert (right[:LINE] < 100).any()
        assert (red(right), red(wrong[:LINE])) == (0, 0)
        assert red(wrong[LINE:]) > 20
    assert (cell(picture, 1, 3)[1] == 255).all(), "nothing below a difference"
    assert (picture[:, -GAP:] == 255).all(), "no word runs out of the picture"
