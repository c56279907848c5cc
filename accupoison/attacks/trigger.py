"""The adversarial trigger: a batch whose gradient step undoes what the model has learnt."""

from torch import Tensor

from accupoison.gradients import gradient, inner, normalize_each, pgd_linf
from accupoison.types import Batch, ModelView


def craft_trigger(
    view: ModelView,
    trigger: Batch,
    val: Batch,
    *,
    eps: float,
    steps: int,
    train: bool = False,
    round_sign: bool = False,
) -> Tensor:
    """Minimise the cosine between the gradients at the trigger and at the attacker's images (Pang et al. 2021, Eq. 5).

    The objective is the sum over parameter tensors of the inner product of the normalised gradients, as in the
    released code; steps are signed, of size ``2 * eps / steps``.

    Args:
        view: The model under attack.
        trigger: The clean trigger batch [B, ...], centre of the l_inf ball.
        val: The attacker's own images.
        eps: Radius in pixels.
        steps: Gradient steps.
        train: Use batch statistics in place of the running ones.
        round_sign: Leave a pixel where it is if the objective's slope there is below 0.0005.

    Returns:
        The crafted images [B, ...], detached.
    """

    def craft(clean: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor) -> tuple[Tensor]:
        goal = normalize_each(gradient(view, val_x, val_y, train=train))

        def divergence(x: Tensor) -> Tensor:
            return -inner(normalize_each(gradient(view, x, y, train=train, graph=True)), goal)

        return (pgd_linf(clean, divergence, eps=eps, steps=steps, round_sign=round_sign, bounded=trigger.bounded),)

    key = "trigger", eps, steps, train, round_sign, trigger.bounded
    return view.recorded(key, craft, trigger.x, trigger.y, val.x, val.y)[0]
