"""The images of a step as a person looks at them: one strip a sample."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accupoison.types import Batch, ModelView, Step

TILE, GAP, LINE = 85, 2, 15
"""Pixels of an image's width at least, between images, and of a line of text.

Four images make up the 350 pixels of TensorBoard's cards, which would drop every third column of a wider picture.
"""
COLUMNS = ("clean", "sent", "seen", "difference x 8")


def strips(step: Step, view: ModelView, classes: Sequence[str], count: int) -> NDArray[np.uint8]:
    """Return the first samples of a step, each as one strip: clean, sent, seen, and what was added, eight times.

    Below each image is its label and, where it is another class, in red what ``view`` takes it for. A sample that the
    defence has dropped has no image as seen.

    Args:
        step: Its batches hold images, [B, 1 or 3, H, W].
        view: The model, as it is after the step.
        classes: Their names.
        count: Strips, at most.

    Returns:
        Pixels [height, width, 3].
    """
    from PIL import Image, ImageDraw, ImageFont  # here, as few commands draw

    clean, sent = step.clean.rows(slice(0, count)), step.sent.rows(slice(0, min(count, len(step.clean))))
    scale = max(1.0, TILE / clean.x.shape[-1])
    size = round(clean.x.shape[-1] * scale), round(clean.x.shape[-2] * scale)
    width, height, tall = size[0] + GAP, size[1] + GAP, size[1] + GAP + 2 * LINE
    picture = Image.new("RGB", (len(COLUMNS) * width + GAP, LINE + GAP + len(clean) * tall), "white")
    pen = ImageDraw.Draw(picture)
    pen.font = ImageFont.load_default(LINE - 3)
    difference = (0.5 + 8 * (sent.x - clean.x)).clamp(0, 1)
    seen = dict(zip(step.seen.ids.tolist(), range(len(step.seen)), strict=True))
    kept = torch.tensor([seen[i] for i in sent.ids.tolist() if i in seen], dtype=torch.int64, device=clean.x.device)
    passed = step.seen.rows(kept)
    shown = dict(zip(passed.ids.tolist(), zip(passed.x, _captions(passed, view, classes), strict=True), strict=True))
    columns: list[list[tuple[Tensor, tuple[str, str]] | None]] = [
        list(zip(clean.x, _captions(clean, view, classes), strict=True)),
        list(zip(sent.x, _captions(sent, view, classes), strict=True)),
        [shown.get(i) for i in sent.ids.tolist()],
        [(image, ("", "")) for image in difference],
    ]
    for number, (title, cells) in enumerate(zip(COLUMNS, columns, strict=True)):
        left = GAP + number * width
        pen.text((left, 0), title, fill="black")
        for row, cell in enumerate(cells):
            if cell is not None:
                top = LINE + GAP + row * tall
                picture.paste(Image.fromarray(_pixels(cell[0])).resize(size, Image.Resampling.NEAREST), (left, top))
                for line, (text, colour) in enumerate(zip(cell[1], ("black", "red"), strict=True)):
                    pen.text((left, top + height - GAP + line * LINE), text, fill=colour)
    return np.asarray(picture)


@torch.no_grad()
def _captions(batch: Batch, view: ModelView, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the label of each row and, where it is another one, the predicted class, such as "cat" and "> dog"."""
    guesses = view.logits(batch.x).argmax(1).tolist() if len(batch) else []
    for label, guess in zip(batch.y.tolist(), guesses, strict=True):
        yield classes[label], "" if label == guess else f"> {classes[guess]}"


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """Return an image [C, H, W] in [0, 1] as bytes [H, W, 3]."""
    pixels = image.detach().float().nan_to_num().clamp(0, 1).mul(255).round().byte().cpu().permute(1, 2, 0).numpy()
    return pixels.repeat(3 // pixels.shape[2], axis=2)
