"""What leaves a model in place of its probabilities; the base class releases them as they are."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from accupoison.registry import Component, Registry
from accupoison.types import Batch, Context, ModelView

RELEASES: "Registry[Release]"

MEMBERS = "members"
"""In ``requires``: the release learns from samples whose membership the defender knows."""
CHUNK = 500
"""Queries that go through the model, or through a search, at a time."""


@dataclass(kw_only=True)
class Release(Component):
    """Probabilities as they are.

    A subclass is a dataclass; what its fields are is said at :class:`~accupoison.registry.Component`. One that needs
    nothing but the probabilities overrides :meth:`rewrite`; one that asks the model itself, or learns from members,
    overrides :meth:`__call__`, and :meth:`fit`.

    The same query gets the same answer however often it is asked, so that averaging gains nothing: all randomness is a
    function of a key, drawn in :meth:`fit`, and of the query's id, which stands for its content. Rows are independent:
    what one query gets does not depend on which others come with it, up to the rounding of the model's own logits.

    Attributes:
        keeps_label: The most probable class of every row stays.
        requires: What :meth:`fit` needs: "members", samples whose membership the defender knows.
        neutral: The settings at which it changes nothing; None where there are none.
    """

    keeps_label: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[dict[str, Any] | None] = None

    @property
    def spec(self) -> str:
        """The release in one word, as ``--release`` takes it: its first setting, and those that are not usual."""
        usual, first = type(self)().settings, next(iter(self.settings), "")
        shown = {key: value for key, value in self.settings.items() if key == first or value != usual[key]}
        words = [f"{key}={_text(value)}" for key, value in shown.items()]
        return f"{self.spelling}:{','.join(words)}" if words else self.spelling

    @property
    def needs_model(self) -> bool:
        """It does more than rewrite probabilities, so that a file of them is not enough."""
        return bool(self.requires) or type(self).__call__ is not Release.__call__

    def fit(self, view: ModelView, members: Batch, nonmembers: Batch, ctx: Context) -> None:
        """Learn what is needed, once, before anybody asks; a resumed run does not come here again.

        Args:
            view: The model that answers.
            members: Samples that it was trained on, as far as the defender knows them, [M, ...].
            nonmembers: Samples that it was not trained on, [N, ...].
            ctx: Gives the random numbers.
        """

    def __call__(self, view: ModelView, x: Tensor, ids: Tensor) -> Tensor:
        """Return what is released.

        Args:
            view: The model that answers; nothing about it changes.
            x: The queries [B, ...].
            ids: Who they are, int64 [B].

        Returns:
            Probabilities float64 [B, C] on the CPU, each row summing to 1.
        """
        return self.rewrite(ask(view, x).softmax(dim=1))

    def rewrite(self, probs: Tensor) -> Tensor:
        """Return what is released in place of probabilities, float64 [B, C]."""
        return probs


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@torch.no_grad()
def ask(view: ModelView, x: Tensor) -> Tensor:
    """Return logits, float64 [B, C] on the CPU, of queries [B, ...]."""
    predict = view.frozen()
    return torch.cat([predict(part).cpu().double() for part in torch.split(x, CHUNK)])


RELEASES = Registry("release", base=Release)


@RELEASES.register("identity", "none")
@dataclass(kw_only=True)
class Identity(Release):
    """Probabilities as they are."""

    neutral: ClassVar[dict[str, Any] | None] = {}
