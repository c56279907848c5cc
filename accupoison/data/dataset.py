"""Images or features, labels and the ids that name them."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from accupoison.types import Batch

Stats = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, for pixels in [0, 1]."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """A labelled data set with a fixed train and test half: images, held as bytes, or feature vectors.

    Train sample ``i`` has id ``i``; test sample ``j`` has id ``num_train + j``. Ids may live on any device.

    Attributes:
        name: What it was loaded as, such as ``cifar10``.
        train_x: Images uint8 [N, C, H, W], or features float32 [N, D] in [0, 1].
        train_y: int64 [N].
        test_x: The same for the M test samples.
        test_y: int64 [M].
        classes: The class names, in label order.
        flip: A horizontal flip leaves the class as it is.
        stats: Published channel statistics; None where they are to be measured by :meth:`channel_stats`.
        note: What the user should know about it, or "".
        file_ids: Ids in the order of the file, int64 [size], of a set that its file does not divide; None where that is
            the order of the ids, train samples first.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    flip: bool
    stats: Stats | None = None
    note: str = ""
    file_ids: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def num_train(self) -> int:
        """The number of train samples, which is the first test id."""
        return len(self.train_x)

    @property
    def size(self) -> int:
        """The number of ids: train and test samples together."""
        return len(self.train_x) + len(self.test_x)

    @property
    def features(self) -> bool:
        """The samples are feature vectors, not images."""
        return self.train_x.ndim == 2

    @property
    def kind(self) -> str:
        """What the samples are called: "images" or "features"."""
        return "features" if self.features else "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image, or the number of features."""
        return tuple(self.train_x.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.train_x.device

    def check(self) -> None:
        """Raise ValueError unless all tensors are laid out as the attributes say and labels name classes."""
        for half, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if x.ndim == 2 and x.dtype != torch.float32:
                raise ValueError(f"{half}_x is {x.dtype}; features must be float32")
            if x.ndim == 2 and not bool(((x >= 0) & (x <= 1)).all()):
                raise ValueError(f"{half}_x leaves [0, 1]; scale the features")
            if x.ndim != 2 and (x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3):
                raise ValueError(f"{half}_x is {x.dtype} {list(x.shape)}; images must be uint8 [N, 3, H, W]")
            if y.dtype != torch.int64 or y.shape != (len(x),):
                raise ValueError(f"{half}_y is {y.dtype} {list(y.shape)}; labels must be int64 [{len(x)}]")
            if not len(x) or not bool(((y >= 0) & (y < self.num_classes)).all()):
                raise ValueError(f"{half}_y has no labels, or some outside 0 to {self.num_classes - 1}, its classes")
        shapes = [list(x.shape[1:]) for x in (self.train_x, self.test_x)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"train samples are {shapes[0]} and test samples {shapes[1]}")

    def inputs(self, ids: Tensor) -> Tensor:
        """Return the samples ``ids`` (int64 [B]) as they are held: uint8 [B, C, H, W], or float32 [B, D].

        Raises:
            IndexError: An id is negative or not below ``size``.
        """
        return self._pick(self.train_x, self.test_x, ids)

    def labels(self, ids: Tensor) -> Tensor:
        """Return the labels of ``ids`` (int64 [B]) as int64 [B].

        Raises:
            IndexError: An id is negative or not below ``size``.
        """
        return self._pick(self.train_y, self.test_y, ids)

    def batch(self, ids: Tensor) -> Batch:
        """Return ``ids`` as a float32 batch in [0, 1] on the device of the data set.

        Raises:
            IndexError: An id is negative or not below ``size``.
        """
        x = self.inputs(ids)
        # Dividing by 255 (here, in `quantise` and in `Shift`) is what defines the 8-bit grid.
        x = x if self.features else x.float() / 255
        return Batch(x, self.labels(ids), ids.to(self.device), checked=x)  # its samples are known to be in range

    def to(self, device: torch.device | str) -> "DataSet":
        """Return the same data set with its tensors on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("train_x", "train_y", "test_x", "test_y")}
        return replace(self, **moved)

    def fingerprint(self) -> str:
        """Return a SHA-256 hex digest of all samples, labels and class names; neither name nor device matter."""
        return self._fingerprint

    def channel_stats(self, ids: Tensor) -> Stats:
        """Return mean and standard deviation of each channel, or feature, over the samples ``ids``, in [0, 1].

        Raises:
            ValueError: ``ids`` is empty.
        """
        if not len(ids):
            raise ValueError("channel statistics need at least one sample")
        if self.features:
            x = self.inputs(ids).cpu().double()
            return tuple(x.mean(0).tolist()), tuple(x.std(0, correction=0).tolist())
        # Histograms make this exact and need no floating-point copy of the images.
        images, level = self.inputs(ids), torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in range(images.shape[1]):
            share = torch.bincount(images[:, channel].flatten(), minlength=256).cpu().double()
            share /= share.sum()
            mean = (share * level).sum()
            means.append(float(mean))
            stds.append(float((share * (level - mean) ** 2).sum().sqrt()))
        return tuple(means), tuple(stds)

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            array = part.cpu().contiguous().numpy()
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def _pick(self, train: Tensor, test: Tensor, ids: Tensor) -> Tensor:
        if not len(ids):
            return train[:0]
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.size:
            raise IndexError(f"ids of {self.name} run from 0 to {self.size - 1}, got {low} to {high}")
        ids = ids.to(self.device)  # only now: to look at what is on a GPU waits for it
        if high < self.num_train:
            return train[ids]
        if low >= self.num_train:
            return test[ids - self.num_train]
        is_test = ids >= self.num_train
        out = torch.empty((len(ids), *train.shape[1:]), dtype=train.dtype, device=train.device)
        out[~is_test], out[is_test] = train[ids[~is_test]], test[ids[is_test] - self.num_train]
        return out
