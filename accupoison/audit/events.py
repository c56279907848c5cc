"""An audit as TensorBoard shows it, beside the run that was audited."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.image
from torch.utils.tensorboard import SummaryWriter

from accupoison.records.files import writing

SUFFIX = ".audit"
"""Tells an audit's event files from those of a run in the same directory."""


def write_events(
    folder: Path,
    values: Mapping[str, float],
    curves: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    pictures: Iterable[str] = (),
) -> None:
    """Write an event file in ``folder`` in the place of those of an earlier audit.

    Args:
        folder: Where the audit's other files are.
        values: A number by name, such as ``loss/auc``; shown under ``audit/``.
        curves: (x, value) pairs by name, such as an AUC against ages.
        pictures: Names of PNG files in ``folder``.

    Raises:
        InputError: The file cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(folder), filename_suffix=SUFFIX) as writer:
            for name, value in values.items():
                writer.add_scalar(f"audit/{name}", value)
            for name, points in (curves or {}).items():
                for x, value in points:
                    writer.add_scalar(f"audit/{name}", value, x)
            for name in pictures:
                image = matplotlib.image.imread(folder / name)[..., :3]
                writer.add_image(f"audit/{Path(name).stem}", image, dataformats="HWC")
