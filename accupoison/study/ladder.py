"""How far up the attacks a defence holds, beside its own controls, and whether it still learns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean
from textwrap import fill

from accupoison.attacks import ATTACKS
from accupoison.config.layers import plain
from accupoison.config.schema import OnlineConfig
from accupoison.defenses import DEFENSES
from accupoison.errors import InputError
from accupoison.measure.verdict import points, spoken
from accupoison.study.collect import Run
from accupoison.study.controls import RunSpec, like
from accupoison.study.groups import Group, group
from accupoison.study.outcomes import Estimate, Pair, estimate, harm, one_sided
from accupoison.study.tables import Row, in_points, over, retained_by, table_text
from accupoison.study.verdict import WIDTH

FALLS = 0.02
"""Net harm, in accuracy, beyond which a defence has fallen."""
FIRED = ("defense/undone", "defense/inner_steps", "defense/rejected", "defense/redirected")
"""Above 0 at a step where a defence has done something about the batch."""
MD = "defense/discrepancy_sent"
CAPTION = """\
H: accuracy of this defence on the clean stream after a clean trigger, minus that under attack after the {trigger} one;
net: the same from its control that costs it most, {control}; bounds: on net, one-sided, 95%. All in points, on images
as the stream has them then; ± is half a 95% t-interval over {unit}. MD: mean discrepancy of what was sent, in nats;
fired: steps before the trigger at which the defence acted, in percent. It falls where the lower bound is above
{least:g} points, and holds where the upper one is below."""


def rungs() -> dict[str, str]:
    """Return the rung of each registered attack that stands on the ladder, from the lowest."""
    found = sorted((vars(ATTACKS.get(name)).get("rung", ""), name) for name in ATTACKS.names())
    return {name: rung for rung, name in found if rung}


def beside(specs: Sequence[RunSpec], shift: str) -> list[RunSpec]:
    """Return runs against a defence, then its controls and, on a clean stream that shifts, its learning floor.

    The controls are the defence's own: the clean stream, and noise of the size of the lowest rung's poison, each with
    the triggers coast and clean. The floor has standard training and FREEZE on the same stream.

    Args:
        specs: Runs of one defence under attacks.
        shift: The kind of the stream of the floor.
    """
    every = list(specs)
    places, known = {spec.out for spec in specs}, {_key(spec.config) for spec in specs}
    for spec in specs:  # attacks of other budgets have the controls of the lowest rung
        for name, config in _more(spec.config, shift):
            out, key = spec.out.with_name(f"{name}-b{config.start.seed}-s{config.run.seed}"), _key(config)
            if out not in places and key not in known:
                every.append(RunSpec(out, config))
            places.add(out)
            known.add(key)
    return every


def _key(config: OnlineConfig) -> str:
    return json.dumps(plain(config), sort_keys=True)


def _more(config: OnlineConfig, shift: str) -> Iterator[tuple[str, OnlineConfig]]:
    name = config.defense.name
    config = replace(config, trigger=replace(config.trigger, types=("coast", "clean")))
    clean = replace(config, attack=like(config.attack, ATTACKS, "none"))
    yield f"{name}-clean", clean
    yield f"{name}-noise", replace(config, attack=like(config.attack, ATTACKS, "noise", kind="rademacher"))
    moving = replace(clean, stream=replace(clean.stream, kind=shift))
    yield f"{name}-floor", moving
    for other in ("ST", "FREEZE"):
        if other != name:
            yield f"{other}-floor", replace(moving, defense=like(config.defense, DEFENSES, other))


@dataclass(frozen=True)
class Step:
    """What one attack of the ladder does to the defence.

    Attributes:
        rung: Of the attack.
        attack: Its name.
        setting: What tells it from others of the name; empty if nothing does.
        runs: The runs under it.
        accuracy: After the trigger, in [0, 1]; None where it is not known, and so below.
        raw: Harm from the clean stream.
        net: Harm from the control that costs most.
    """

    rung: str
    attack: str
    setting: str
    runs: tuple[Run, ...]
    accuracy: Estimate | None
    raw: Estimate | None
    net: Estimate | None

    @property
    def bounds(self) -> tuple[float, float]:
        """The one-sided 95% bounds of the net harm."""
        return (-inf, inf) if self.net is None else one_sided(self.net)

    @property
    def verdict(self) -> str:
        """Whether the defence "falls", "holds", or that is "open"; a model that has diverged is one that fell."""
        low, high = self.bounds
        if low > FALLS or any(run.summary["status"] == "diverged" for run in self.runs):
            return "falls"
        return "holds" if high < FALLS else "open"

    def row(self) -> dict[str, str]:
        """Return it as a row of the table."""
        low, high = self.bounds
        md = estimate((run.burnin, run.summary["means"].get(MD)) for run in self.runs)
        return {
            "rung": self.rung,
            "attack": ", ".join(filter(None, (self.attack, self.setting))),
            "accuracy": in_points(self.accuracy),
            "H": in_points(self.raw),
            "net": in_points(self.net),
            "bounds": f"{100 * low:.1f} to {100 * high:.1f}" if high < inf else "",
            "MD": "" if md is None else md.text(4),
            "fired": in_points(estimate((run.burnin, _fired(run)) for run in self.runs)),
            "verdict": self.verdict,
        }


def ladder_text(runs: Sequence[Run], trigger: str, shift: str) -> str:
    """Return a table by rung, where the defence falls or that it holds, and its learning floor.

    Args:
        runs: Those of :func:`beside`, as far as they could be made.
        trigger: After which harm is measured: the last of the runs under attack.
        shift: The kind of the stream of the floor.
    """
    climbed = next(ladders(runs, trigger), None)
    if climbed is None:
        return "No run under attack could be made, so there is nothing to say of the ladder."
    control, steps = climbed
    one = steps[0].runs[0]
    name, unit = spoken(one.config.defense.name), "streams" if len({run.burnin for run in runs}) == 1 else "base models"
    legend = CAPTION.format(trigger=trigger, control=control, unit=unit, least=100 * FALLS)
    floor = [run for run in runs if run.config.attack.name == "none" and run.config.stream.kind == shift]
    said = [legend, _where(name, steps), _floor(floor, one.defense, name)]
    return "\n\n".join([table_text([step.row() for step in steps]), *(fill(text, WIDTH) for text in said)])


def ladders(runs: Sequence[Run], trigger: str) -> Iterator[tuple[str, list[Step]]]:
    """Yield, for each defence on each stream, its costliest control and its steps, from the lowest rung up.

    Args:
        runs: The runs.
        trigger: After which harm is measured.
    """
    known = rungs()
    attacked = [run for run in runs if run.config.attack.name in known]
    for one in {(run.defense, str(run.config.stream)): run for run in attacked}.values():
        own = [run for run in runs if (run.defense, run.config.stream) == (one.defense, one.config.stream)]
        clean = {run.pair: run for run in own if run.config.attack.name == "none"}
        control, reached = _costliest(own)
        under = group([run for run in own if run.config.attack.name in known])
        steps = [
            _step(experiment, known[experiment.first.config.attack.name], trigger, clean, reached)
            for experiment in under
        ]
        yield control, sorted(steps, key=lambda step: (step.rung, step.attack, step.setting))


def _step(one: Group, rung: str, trigger: str, clean: Mapping[Pair, Run], reached: Mapping[Pair, float]) -> Step:
    key = one.first.accuracy_now
    accuracy = over(one, lambda run: run.after(trigger, key))
    raw = over(one, lambda run: harm(run, trigger, clean, key))
    net = over(one, lambda run: _difference(reached.get(run.pair), run.after(trigger, key)))
    return Step(rung, one.first.config.attack.name, one.setting, one.runs, accuracy, raw, net)


def ladder_rows(runs: Sequence[Run], trigger: str) -> list[Row]:
    """Return a row for each step of each defence; none unless attackers of several rungs are there.

    Args:
        runs: The runs.
        trigger: After which harm is measured.
    """
    climbed = list(ladders(runs, trigger))
    if len({step.rung for _, steps in climbed for step in steps}) < 2:
        return []
    return [
        Row(
            {
                "stream": step.runs[0].config.stream.kind,
                "defence": step.runs[0].defense,
                **step.row(),
                "control": control,
            },
            step.runs,
        )
        for control, steps in climbed
        for step in steps
    ]


def _difference(control: float | None, here: float | None) -> float | None:
    return None if control is None or here is None else control - here


def _costliest(own: Sequence[Run]) -> tuple[str, Mapping[Pair, float]]:
    """Return the control after which the defence's accuracy is lowest on average, and that accuracy by pair."""
    controls: dict[str, tuple[str, str]] = {
        "a clean trigger on the clean stream": ("none", "clean"),
        "a step without a batch on the clean stream": ("none", "coast"),
        "a clean trigger after noise of the lowest rung's size": ("noise", "clean"),
    }
    found: dict[str, dict[Pair, float]] = {}
    for words, (attack, path) in controls.items():
        runs = [run for run in own if run.config.attack.name == attack]
        values = {run.pair: value for run in runs if (value := run.after(path, run.accuracy_now)) is not None}
        found |= {words: values} if values else {}
    if not found:
        return "which is missing", {}
    words = min(found, key=lambda name: fmean(found[name].values()))
    return words, found[words]


def _fired(run: Run) -> float | None:
    """Return the share of the steps before the trigger at which the defence acted."""
    try:
        rows = [row for row in run.metrics if not row["branch"] and "time/step_s" in row]
    except InputError:  # the verdicts are good without it
        return None
    acted = [any(row.get(tag, 0) > 0 for tag in FIRED) for row in rows]
    return fmean(acted) if acted else None


def _where(name: str, steps: Sequence[Step]) -> str:
    """Return at which rung the defence falls, if at any."""
    fallen = [step for step in steps if step.verdict == "falls"]
    if fallen:
        step, (low, _) = fallen[0], fallen[0].bounds
        lost = f": net harm of at least {points(low)}" if low > FALLS else ": a run diverged"
        return f"{name} falls at rung {step.rung} ({step.attack}){lost}."
    if left := [step for step in steps if step.verdict == "open"]:
        names = ", ".join(f"{step.rung} ({step.attack})" for step in left)
        return f"{name} is not shown to fall or to hold at {names}; give more --seeds or --burnins."
    return f"{name} holds on {'the one rung' if len(steps) == 1 else f'all {len(steps)} rungs'}."


def _floor(runs: Sequence[Run], defense: str, name: str) -> str:
    """Return whether a defence learns more than FREEZE does, and how much of what standard training learns."""
    found = {one.first.defense: (values, kept) for one, values, _, kept in retained_by(runs)}
    if defense not in found or "FREEZE" not in found:
        return "Learning floor: not known, as a run on the clean stream that shifts is missing."
    (values, kept), (frozen, _) = found[defense], found["FREEZE"]
    gain = estimate((pair[0], value - frozen[pair]) for pair, value in values.items() if pair in frozen)
    assert gain is not None
    low, high = one_sided(gain)
    beats = "learns more than FREEZE" if low > 0 else "learns no more than FREEZE"
    beats = beats if high < inf else "has too few runs to be told from FREEZE"
    share = "withheld, as ST gains too little on it" if kept is None else kept.text(2)
    ends = [f"{who} {in_points(estimate((p[0], v) for p, v in end.items()))}%" for who, (end, _) in found.items()]
    shift = runs[0].config.stream.kind
    return (
        f"Learning floor: on the clean stream {shift} {name} {beats} ({in_points(gain)} points); retention R {share}. "
        f"Accuracy at the end, shifted alike: {', '.join(ends)}."
    )
