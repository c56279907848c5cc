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
from torch import Tensor

from accupoison.accel.layers import KERNELS
from accupoison.attacks.accumulative import alignment_gradient, craft_accumulative
from accupoison.defenses.dsc import correct
from accupoison.discrepancy import divergence
from accupoison.gradients import project_linf
from accupoison.measure.accuracy import predict_correct_and_loss
from accupoison.models.view import view_of
from accupoison.study.tables import markdown
from accupoison.types import ModelView
from benchmarks.phases import ALWAYS, EPS, Bench, alignment_gradient_whole, in_turn
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
        x, answer, early = batch.x.clone(), live.frozen(), reference.frozen()
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


COMPARISONS = (second_order, rows_at_once, correction)


def compare(width: int, rounds: int) -> list[dict[str, Any]]:
    """Time all ways in ``rounds`` alternating rounds; return the median of each."""
    bench, rows = Bench(width), []
    for comparison in COMPARISONS:
        ways = comparison(bench)
        times = in_turn(ways, rounds)
        rows += [{"width": width, "way": name, "seconds": median(took)} for name, took in times.items()]
    return rows


def signs_kept(width: int) -> dict[str, float]:
    """Return the share of pixels that one signed step in float32 moves as in float64, by way.

    Of accumulative poisoning; what is left are slopes that rounding turns around.
    """
    bench = Bench(width)
    exact = view_of(copy.deepcopy(bench.learner.model).double(), "torch")

    def poison(view: ModelView, dtype: torch.dtype) -> Tensor:
        trigger, batch, val = (b.with_x(b.x.to(dtype)) for b in (bench.trigger, bench.batch, bench.val))
        return craft_accumulative(view, trigger, batch, val, eps=EPS, steps=1).double()

    due = poison(exact, torch.float64)

    def share(kernels: str) -> float:
        view = view_of(bench.learner.model, kernels)
        return float((poison(view, torch.float32) - due).abs().lt(EPS / 2).double().mean())

    return {kernels: share(kernels) for kernels in KERNELS}


def peaks(width: int) -> dict[str, float]:
    """Return the peak memory in GB of a process that makes the second-order term, by way."""
    return {name: _alone(f"peak_of({width}, {name!r})") for name in second_order(Bench(width))}


def _alone(call: str) -> Any:  # noqa: ANN401
    code = f"import json\nimport benchmarks.alternatives as a\nprint(json.dumps(a.{call}))"
    return json.loads(run([sys.executable, "-c", code]))


def peak_of(width: int, name: str) -> float:
    """Make the second-order term in one way and return this process's peak memory in GB."""
    second_order(Bench(width))[name]()
    return peak()


@click.command()
@click.option("--width", "widths", type=int, multiple=True, default=(64, 16), show_default=True, help="Of the network.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Timed calls of each way.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "alternatives.json", help="The JSON to write.")
def main(widths: tuple[int, ...], rounds: int, out: Path) -> None:
    """Compare ways of doing one thing."""
    rows: list[dict[str, Any]] = []
    kept: dict[int, dict[str, float]] = {}
    for width in widths:
        kept[width] = _alone(f"signs_kept({width})")
        most = peaks(width)
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
