"""docs/grids.md, made from the grid's own keys."""

import inspect
from collections.abc import Iterator

from accupoison.study import controls
from accupoison.study.grid import KEYS

REGENERATE = (
    "python -c \"from accupoison.study.grid_reference import grids_markdown; print(grids_markdown(), end='')\" "
    "> docs/grids.md"
)
EXAMPLE = """controls = true

[burnin]
preset = "demo"
seeds = [0, 1]

[online]
preset = "demo"

[online.stream]
steps = 10

[[runs]]
name = "accumulative"
seeds = [0, 1, 2]
[runs.each]
"defense.name" = ["ST", "OURS"]
"attack.eps" = [0.1, 0.2]

[[claims]]
text = "the defence keeps accuracy"
more = ["accumulative-ST-0.2", "adversarial"]
less = ["accumulative-OURS-0.2", "adversarial"]
"""
"""A grid that a test reads."""


def grids_markdown() -> str:
    """Return docs/grids.md."""
    keys = "\n".join(f"| `{key}` | {meaning} |" for key, meaning in _keys())
    added = inspect.cleandoc(controls.__doc__ or "").partition("\n\n")[2]
    return f"""# Grids

<!-- Generated from the code; write it anew with
{REGENERATE} -->

A grid is a TOML file that says which base models to make and which streams to start from each. `sweep FILE` carries
it out; runs go to `logs/NAME-OF-THE-FILE/`, base models to `checkpoints/`. This one has 2 base models x 3 streams x 2
defences x 2 budgets, and the controls:

```toml
{EXAMPLE}```

A run is called `NAME-VALUES-bBURNIN-sSEED`, such as `accumulative-OURS-0.2-b0-s1`: the name of its table, its values
of `runs.each` in their order, the seed of its base model and its own. What is finished is left alone, and what was
cut off goes on, whenever the same grid is given again; a run whose settings have changed is refused by its name.

| key | meaning |
|---|---|
{keys}

`sweep --set SECTION.KEY=VALUE`, `--data-dir` and `--device` go over what the grid says:
`train` to the base models, `data`, `model` and `run` to both, the others to the streams.

## Controls

Unless `controls = false`, every poisoned run gets what it has to be set beside:

{added}

One that the grid has itself, under whatever name, is not made again, and runs that differ in their defence alone
share theirs. They are called `control-KIND-` and the name of the first run that they are for. The grids that ship say
`controls = false`: they have their own.

## Shared steps

Runs whose steps before the trigger are the same take them once: those that differ in `release`, `trigger.updates`,
`stream.recovery_steps`, in `trigger.types` as long as all or none of them have a crafted trigger that arrives, and,
where nobody poisons, in the budget. The first of them keeps `fork.pt` until all are finished; the others begin there,
say so in `env.json` by its digest, and are bit for bit what they are alone. `sweep --dry-run` counts the shared steps.

## Settings

The sections and keys that a grid takes are those of [settings.md](settings.md): what is said there of `burnin` in
`[burnin.SECTION]`, of `online` in `[online.SECTION]`, and of one component in `[online.attack.NAME]`, which counts only
where NAME is chosen.
"""


def _keys() -> Iterator[tuple[str, str]]:
    for table, keys in KEYS.items():
        yield from ((f"{table} {key}".strip(), meaning) for key, meaning in keys.items())
