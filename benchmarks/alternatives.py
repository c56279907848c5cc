"""Ways of doing one thing, side by side in one process: what the package does, what it did before, what was tried.

Run by ``python -m benchmarks.alternatives``. The calls alternate, since a shared machine's speed changes by the minute.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import torch.autograd.forward_ad as forward_mode
import torch.nn.functional as F
from torch import Tensor

from accupoison.attacks.accumulative import alignment, tilt
from accupoison.defenses.dsc import correct
from accupoison.discrepancy import batch_discrepancy
from accupoison.gradients import CHUNK, gradient, hessian_vector, project, unit
from accupoison.report.table import markdown
from accupoison.speed import seconds
from accupoison.types import Grads
from benchmarks.phases import ALWAYS, Bench
from benchmarks.processes import peak, run

HERE = Path(__file__).parent
Ways = dict[str, Callable[[], object]]


def second_order(bench: Bench) -> Ways:
    """Return ways to the second-order term of accumulative poisoning."""
    view, trigger, val = bench.learner.view(), bench.trigger, bench.val
    return {
        "second-order term, in chunks": lambda: tilt(view, trigger, val),
        "second-order term, one graph (before)": lambda: torch.autograd.grad(
            alignment(view, trigger, val), view.params()
        ),
    }


def curvature(bench: Bench) -> Ways:
    """Return ways to a Hessian-vector product at the attacker's images."""
    view, val = bench.learner.view(), bench.val
    vector = unit(gradient(view, bench.batch.x, bench.batch.y))

    def forward_over_reverse() -> list[Grads]:
        products = []
        for x, y in zip(torch.split(val.x, CHUNK), torch.split(val.y, CHUNK), strict=True):
            with forward_mode.dual_level():
                pairs = zip(view.params(), vector, strict=True)
                params = tuple(forward_mode.make_dual(p, v) for p, v in pairs)  # type: ignore[no-untyped-call]
                loss = F.cross_entropy(view.logits(x, params=params), y)
                grads = torch.autograd.grad(loss, params)
                products.append(tuple(forward_mode.unpack_dual(g).tangent for g in grads))  # type: ignore[no-untyped-call]
        return products

    return {
        "Hessian-vector product, double backward": lambda: hessian_vector(view, val, vector),
        "Hessian-vector product, forward over reverse (dropped)": forward_over_reverse,
    }


def correction(bench: Bench) -> Ways:
    """Return ways through ten steps of DSC."""
    live, reference, batch = bench.learner.view(), bench.learner.snapshot(), bench.batch

    def with_two_passes() -> Tensor:
        x = batch.x.clone()
        for _ in range(10):
            batch_discrepancy(live, reference, x)
            x.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(live.logits(x), batch.y), x)
            x = project(x.detach() - 0.02 * slope.sign(), batch.x, 0.2)
        return x

    return {
        "ten DSC steps, one forward pass each": lambda: correct(live, reference, batch, ALWAYS),
        "ten DSC steps, two forward passes each (before)": with_two_passes,
    }


COMPARISONS = (second_order, curvature, correction)


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


def memory(width: int) -> list[dict[str, Any]]:
    """Return the peak memory of a process that makes the second-order term in each way."""
    return [
        {"width": width, "way": name, "peak_gb": float(run([sys.executable, "-c", _ONE.format(width, name)]))}
        for name in second_order(Bench(width))
    ]


_ONE = "from benchmarks.alternatives import peak_of\nprint(peak_of({}, {!r}))"


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
    rows = []
    for width in widths:
        peaks = {row["way"]: row["peak_gb"] for row in memory(width)}
        for row in compare(width, rounds):
            rows.append({**row, "peak_gb": peaks.get(row["way"])})
            out.write_text(json.dumps({"rounds": rounds, "rows": rows}, indent=2) + "\n")
    cells = [[str(row["width"]), row["way"], f"{row['seconds']:.2f}", _said(row["peak_gb"])] for row in rows]
    click.echo(markdown(["width", "way", "median s", "peak GB"], cells))


def _said(gigabytes: float | None) -> str:
    return "" if gigabytes is None else f"{gigabytes:.2f}"


if __name__ == "__main__":
    main()
