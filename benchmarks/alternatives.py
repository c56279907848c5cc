"""Ways of doing one thing, side by side in one process: what the package does, and what it did before.

Run by ``python -m benchmarks.alternatives``. The calls alternate, since a shared machine's speed changes by the minute.
"""

import copy
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import torch
import torch.nn.functional as F
from accupoison.accel.memory import keep_freed_memory
from torch import Tensor

from accupoison.attacks.accumulative import alignment_gradient, craft_accumulative
from accupoison.defenses.dsc import correct
from accupoison.discrepancy import divergence
from accupoison.gradients import frozen, gradient, gradient_and_hvp, inner, normalize_each, pgd_linf, project_linf
from accupoison.learner import view_of
from accupoison.measure.accuracy import predict_correct_and_loss
from accupoison.measure.hardware import seconds
from accupoison.study.tables import markdown
from accupoison.types import ModelView
from benchmarks.phases import ALWAYS, EPS, Bench, alignment_gradient_whole, plain, pytorchs_kernels, unprepared
from benchmarks.processes import peak, run

HERE = Path(__file__).parent
Ways = dict[str, Callable[[], object]]


def second_order(bench: Bench) -> Ways:
    """Return ways to the second-order term of accumulative poisoning."""
    view, trigger, val = bench.learner.view(), bench.trigger, bench.val
    return {
        "second-order term, in chunks": lambda: alignment_gradient(view, trigger, val),
        "second-order term, one graph (before)": lambda: alignment_gradient_whole(view, trigger, val),
    }


def fixed(bench: Bench) -> Ways:
    """Return the work whose weights stay the same."""
    live, reference, batch = bench.learner.view(), bench.learner.snapshot(), bench.batch
    return {
        "evaluate 2,000": lambda: predict_correct_and_loss(
            live, bench.data, bench.splits.test[: len(bench.splits.test) // 5]
        ),
        "ten DSC steps": lambda: correct(live, reference, batch, ALWAYS),
    }


def kernels(bench: Bench) -> Ways:
    """Return the work that gains by our own kernels, with them and with PyTorch's."""
    view, batch = bench.learner.view(), bench.batch
    goal = normalize_each(gradient(view, bench.trigger.x, bench.trigger.y))

    def agreement(x: Tensor) -> Tensor:
        return inner(normalize_each(gradient(view, x, batch.y, graph=True)), goal)

    work: Ways = {
        "gradient in train mode, batch": lambda: gradient(view, batch.x, batch.y, train=True),
        "crafting step, batch": lambda: pgd_linf(batch.x, agreement, eps=EPS, steps=1),
        "gradient and Hessian-vector product, batch": lambda: gradient_and_hvp(view, batch)[1](goal),
    }
    return beside(fixed(bench) | work, "our kernels", "PyTorch's", pytorchs_kernels)


def preparation(bench: Bench) -> Ways:
    """Return the same with and without what is made of the weights once."""
    return beside(fixed(bench), "weights prepared", "not (before)", unprepared)


def rows_at_once(bench: Bench) -> Ways:
    """Return an evaluation of more and of fewer rows at a time."""
    work = {"evaluate 2,000": fixed(bench)["evaluate 2,000"]}
    return beside(
        work, "400 at a time", "200 (before)", partial(patch, "accupoison.measure.accuracy.EVALUATION_BATCH", 200)
    )


def beside(work: Ways, now: str, before: str, context: Callable[[], AbstractContextManager[object]]) -> Ways:
    """Return each work as it is, and within the context that undoes a change."""
    ways: Ways = {}
    for name, call in work.items():
        ways |= {f"{name}, {now}": call, f"{name}, {before}": within(context, call)}
    return ways


def within(context: Callable[[], AbstractContextManager[object]], call: Callable[[], object]) -> Callable[[], object]:
    """Return ``call`` within the context."""

    def inside() -> object:
        with context():
            return call()

    return inside


def correction(bench: Bench) -> Ways:
    """Return ways through ten steps of DSC."""
    live, reference, batch = bench.learner.view(), bench.learner.snapshot(), bench.batch

    def with_two_passes() -> Tensor:
        x, answer, early = batch.x.clone(), frozen(live), frozen(reference)
        for _ in range(10):
            with torch.no_grad():
                float(divergence(early(x), answer(x)).mean())
            x.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(answer(x), batch.y), x)
            x = project_linf(x.detach() - 0.02 * slope.sign(), batch.x, 0.2)
        return x

    return {
        "ten DSC steps, one forward pass each": lambda: correct(live, reference, batch, ALWAYS),
        "ten DSC steps, two forward passes each (before)": with_two_passes,
    }


COMPARISONS = (second_order, kernels, preparation, rows_at_once, correction)


def compare(width: int, rounds: int) -> list[dict[str, Any]]:
    """Time all ways in ``rounds`` alternating rounds; return the median of each."""
    bench, rows = Bench(width), []
    for comparison in COMPARISONS:
        ways = comparison(bench)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for work in ways.values():
            work()
        for _ in range(rounds):
            for name, work in ways.items():
                times[name] += seconds(work, 1, warm=False)
        rows += [{"width": width, "way": name, "seconds": median(took)} for name, took in times.items()]
    return rows


def signs_kept(width: int) -> dict[str, float]:
    """Return the share of pixels that one signed step in float32 moves as in float64, by way.

    Of accumulative poisoning; what is left are slopes that rounding turns around.
    """
    bench = Bench(width)
    exact = view_of(copy.deepcopy(bench.learner.model).double())

    def poison(view: ModelView, dtype: torch.dtype) -> Tensor:
        trigger, batch, val = (b.with_x(b.x.to(dtype)) for b in (bench.trigger, bench.batch, bench.val))
        return craft_accumulative(view, trigger, batch, val, eps=EPS, steps=1).double()

    due = poison(exact, torch.float64)

    def share() -> float:
        return float((poison(bench.learner.view(), torch.float32) - due).abs().lt(EPS / 2).double().mean())

    ours = share()
    with plain():
        return {"our kernels": ours, "PyTorch's": share()}


def peaks(width: int) -> dict[str, float]:
    """Return the peak memory in GB of a process that makes the second-order term, by way."""
    return {name: _alone(f"peak_of({width}, {name!r})") for name in second_order(Bench(width))}


def kept_memory(width: int, rounds: int) -> list[dict[str, Any]]:
    """Return what keeping freed memory does, in ``rounds`` processes each."""
    rows = []
    for name, kept in (("kept", True), ("given back (before)", False)):
        took, most = zip(*(_alone(f"evaluation({width}, {kept})") for _ in range(rounds)), strict=True)
        row = {"width": width, "way": f"evaluate 2,000, freed memory {name}"}
        rows.append({**row, "seconds": median(took), "peak_gb": max(most)})
    return rows


def _alone(call: str) -> Any:  # noqa: ANN401
    code = f"import json\nimport benchmarks.alternatives as a\nprint(json.dumps(a.{call}))"
    return json.loads(run([sys.executable, "-c", code]))


def peak_of(width: int, name: str) -> float:
    """Make the second-order term in one way and return this process's peak memory in GB."""
    second_order(Bench(width))[name]()
    return peak()


def evaluation(width: int, kept: bool) -> tuple[float, float]:
    """Return the seconds of an evaluation in this process and, after a second-order term, its peak memory in GB."""
    if kept:
        keep_freed_memory()
    bench = Bench(width)
    took = median(seconds(bench.monitor, 3))
    alignment_gradient(bench.learner.view(), bench.trigger, bench.val)
    return took, peak()


@click.command()
@click.option("--width", "widths", type=int, multiple=True, default=(64, 16), show_default=True, help="Of the network.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Timed calls of each way.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "alternatives.json", help="The JSON to write.")
def main(widths: tuple[int, ...], rounds: int, out: Path) -> None:
    """Compare ways of doing one thing."""
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    kept: dict[int, dict[str, float]] = {}
    for width in widths:
        kept[width] = _alone(f"signs_kept({width})")
        most = peaks(width)
        rows += kept_memory(width, rounds)
        rows += [{**row, "peak_gb": most.get(row["way"])} for row in compare(width, rounds)]
        out.write_text(json.dumps({"rounds": rounds, "rows": rows, "signs_kept": kept}, indent=2) + "\n")
    cells = [[str(row["width"]), row["way"], f"{row['seconds']:.2f}", _said(row["peak_gb"])] for row in rows]
    click.echo(markdown(["width", "way", "median s", "peak GB"], cells))
    for width, shares in kept.items():
        click.echo(
            f"width {width}: pixels moved as in float64: " + ", ".join(f"{k} {v:.3%}" for k, v in shares.items())
        )


def _said(gigabytes: float | None) -> str:
    return "" if gigabytes is None else f"{gigabytes:.2f}"


if __name__ == "__main__":
    main()
