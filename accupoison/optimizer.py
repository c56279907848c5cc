"""SGD with the arithmetic and the saved state of torch's, without what importing its compiler costs."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from accupoison.types import Grads


class MomentumSGD:
    """SGD over one group of parameters.

    Making a ``torch.optim.SGD`` imports ``torch._dynamo``, which takes longer than a small run; the update itself is
    torch's own function. What :meth:`state_dict` returns, either of the two takes back.

    Args:
        parameters: What is moved.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum.

    Attributes:
        param_groups: One group: the parameters and the settings, which may be changed.
        state: By parameter, its momentum buffer once it has taken a step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, nesterov: bool
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "dampening": 0, "weight_decay": weight_decay, "nesterov": nesterov}
        switches = {"maximize": False, "foreach": None, "differentiable": False, "fused": None}
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), **settings, **switches}]
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    def step(self, grads: Grads, direct: Callable[[Grads], Grads] | None = None) -> None:
        """Move the parameters by these gradients, in parameter order.

        Args:
            grads: One tensor a parameter.
            direct: Gets what the momentum buffers would become, :meth:`speed`, and returns what they become instead,
                which is then also what the parameters move along.

        Raises:
            ValueError: There is a ``direct``, and Nesterov's step is not along the buffers.
        """
        (group,) = self.param_groups
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize", "foreach", "fused")
        parameters, settings = group["params"], {name: group[name] for name in names}
        held: list[Any] = [self.state[p].get("momentum_buffer") for p in parameters] if group["momentum"] else []
        moved, buffers = list(grads), held
        if direct is not None:
            if group["nesterov"]:
                raise ValueError("nesterov=True steps beside the momentum, so there is no one direction to change")
            moved = buffers = [tensor.detach().clone() for tensor in direct(self.speed(grads))]
            held, settings = [], {**settings, "momentum": 0, "weight_decay": 0}
        with torch.no_grad():
            sgd(parameters, moved, held, **settings)
        for parameter, buffer in zip(parameters, buffers if group["momentum"] else [], strict=False):
            self.state[parameter]["momentum_buffer"] = buffer

    def buffers(self) -> Grads:
        """Return the momentum buffers in parameter order, zeros where there is none yet."""
        found = [(p, self.state.get(p, {}).get("momentum_buffer")) for p in self.param_groups[0]["params"]]
        return tuple(torch.zeros_like(p) if buffer is None else buffer for p, buffer in found)

    def stepped(
        self, grads: Grads, weights: Grads, momentum: Grads, direct: Callable[[Grads], Grads] | None = None
    ) -> tuple[Grads, Grads]:
        """Return the weights and the momentum after a step from others; differentiable, and nothing changes.

        Args:
            grads: The gradients, in parameter order.
            weights: Where the step begins.
            momentum: The buffers there.
            direct: As for :meth:`step`.
        """
        group = self.param_groups[0]
        slopes = [grad + group["weight_decay"] * weight for grad, weight in zip(grads, weights, strict=True)]
        speeds = tuple(group["momentum"] * buffer + slope for buffer, slope in zip(momentum, slopes, strict=True))
        if direct is not None:
            speeds = direct(speeds)
        steps: Iterable[Tensor] = speeds
        if group["nesterov"]:
            steps = [slope + group["momentum"] * speed for slope, speed in zip(slopes, speeds, strict=True)]
        return tuple(weight - group["lr"] * step for weight, step in zip(weights, steps, strict=True)), speeds

    @torch.no_grad()
    def speed(self, grads: Grads) -> Grads:
        """Return momentum times its buffers plus gradients plus weight decay, in parameter order; nothing changes."""
        (group,) = self.param_groups
        decay, found = group["weight_decay"], []
        for parameter, grad in zip(group["params"], grads, strict=True):
            slope = grad.add(parameter, alpha=decay) if decay else grad
            buffer = self.state[parameter].get("momentum_buffer") if group["momentum"] else None
            found.append(slope if buffer is None else buffer.mul(group["momentum"]).add_(slope))
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        """Return settings and buffers by the number of their parameter; the buffers are not copied."""
        (group,) = self.param_groups
        numbers = {parameter: number for number, parameter in enumerate(group["params"])}
        settings = {key: value for key, value in group.items() if key != "params"}
        state = {numbers[parameter]: values for parameter, values in self.state.items()}
        return {"state": state, "param_groups": [{**settings, "params": list(numbers.values())}]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; buffers that are as their parameters are not copied.

        Raises:
            ValueError: It belongs to other parameters, or to several groups of them.
        """
        (group,), (saved,) = self.param_groups, copy.deepcopy(state["param_groups"])
        if len(saved["params"]) != len(group["params"]) or not set(state["state"]) <= set(saved["params"]):
            raise ValueError(f"the state is that of {len(saved['params'])} parameters, not of {len(group['params'])}")
        by_number = dict(zip(saved["params"], group["params"], strict=True))
        usual = {key: value for key, value in group.items() if key not in saved}
        self.param_groups = [{**saved, **usual, "params": group["params"]}]
        self.state = defaultdict(dict)
        for number, values in state["state"].items():
            p = by_number[number]
            self.state[p] = {key: _like(v, p) if isinstance(v, Tensor) else v for key, v in values.items()}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor as a parameter has it, in strides too: with others, a GPU takes a launch for each."""
    if tensor.shape != parameter.shape or tensor.stride() == parameter.stride():
        return tensor.to(parameter)
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
