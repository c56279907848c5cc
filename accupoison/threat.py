"""The threat model of a run in one line."""

from accupoison.settings import REGISTRIES, OnlineConfig


def threat_model(config: OnlineConfig) -> str:
    """Return one line that says who knows, owns and may do what."""
    return f"{_attacker(config)}; {_defender(config)}"


def _attacker(config: OnlineConfig) -> str:
    settings, stream = config.attack.settings, config.stream
    poisons = config.attack.name != "none"
    crafted = not {"adversarial", "optimised"}.isdisjoint(config.trigger.deliver)
    if not poisons and not crafted:
        return "no attacker"
    ratio = settings.get("ratio", 1)
    some = "every image" if ratio == 1 else f"{ratio:.0%} of the images"
    what = f"{some} before the trigger" if poisons else "the trigger batch alone"
    what += " and the trigger batch" if poisons and crafted else ""
    limit = f"l_inf {settings['eps'] * 255:.3g}/255" if "eps" in settings else "no stated budget"
    if settings.get("recentre") and "optimised" in config.trigger.deliver:
        limit += ", the trigger's measured from the last crafted one and so unbounded"
    order = {
        "before": "after the victim's crop and flip",
        "after": "before the victim's crop and flip",
        "none": "no augmentation",
    }[stream.augment]
    rounding = ", then 8-bit rounding" if stream.quantise else ""
    kind = REGISTRIES["attack"].get(config.attack.name)
    knows, labels = kind.knows, "keeps labels" if kind.keeps_labels else "may change labels"
    extra = f" and {', '.join(sorted(knows))}" if knows else ""
    blind = config.attack.name == "noise" and not crafted
    sees = "sees nothing of the model" if blind else f"sees the weights at every step{extra}"
    held = "images of the test set" if config.data.splits == "official" else "held-out images of its own"
    return (
        f"attacker ({config.attack.name}) {sees}, perturbs {what} within {limit} ({order}{rounding}), {labels}, "
        f"has {held}, does not know the defence; trigger: {', '.join(config.trigger.deliver)}"
    )


def _defender(config: OnlineConfig) -> str:
    requires = REGISTRIES["defense"].get(config.defense.name).requires
    needs = f" and needs {', '.join(sorted(requires))}" if requires else ""
    clip = f", gradient clipped at {config.optim.clip_norm:g}" if config.optim.clip_norm < float("inf") else ""
    return f"defender ({config.defense.name}{clip}) owns the training{needs}, never told which rows are poisoned"
