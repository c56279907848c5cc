"""The threat model of a run in one line."""

from accupoison.config.schema import REGISTRIES, OnlineConfig
from accupoison.loop.schedule import CRAFTED


def threat_model(config: OnlineConfig, *, images: bool = True) -> str:
    """Return one line that says who knows, owns and may do what.

    Args:
        config: All settings.
        images: The data are images; features are neither cropped nor rounded.
    """
    return f"{_attacker(config, images)}; {_defender(config)}"


def _attacker(config: OnlineConfig, images: bool) -> str:
    settings, noun = config.attack.settings, "image" if images else "sample"
    poisons = config.attack.name != "none"
    crafted = not CRAFTED.isdisjoint(config.trigger.deliver)
    if not poisons and not crafted:
        return "no attacker"
    ratio = settings.get("ratio", 1)
    some = f"every {noun}" if ratio == 1 else f"{ratio:.0%} of the {noun}s"
    what = f"{some} before the trigger" if poisons else "the trigger batch alone"
    what += " and the trigger batch" if poisons and crafted else ""
    limit = f"l_inf {settings['eps'] * 255:.3g}/255" if "eps" in settings else "no stated budget"
    if settings.get("recentre") and "optimised" in config.trigger.deliver:
        limit += ", the trigger's measured from the last crafted one and so unbounded"
    kind = REGISTRIES["attack"].get(config.attack.name)
    labels = "keeps labels" if kind.keeps_labels else "may change labels"
    held = f"{noun}s of the test set" if config.data.splits == "official" else f"held-out {noun}s of its own"
    code = settings.get("stage") == "code"
    sees = "sees what the defence passes on" if code else "does not know the defence"
    return (
        f"attacker ({config.attack.name}) {_knowledge(config, crafted)}, perturbs {what} within {limit} "
        f"({_order(config, images)}), {labels}, has {held}, {sees}; "
        f"trigger: {', '.join(config.trigger.deliver)}"
    )


def _knowledge(config: OnlineConfig, crafted: bool) -> str:
    settings, replayed = config.attack.settings, config.stream.replay
    if replayed is not None:
        return f"sees nothing of this model and sends what it made in {replayed}"
    if config.attack.name == "noise" and not crafted:
        return "sees nothing of the model"
    knows = REGISTRIES["attack"].get(config.attack.name).knows
    extra = f" and {', '.join(sorted(knows))}" if knows else ""
    stealth = settings.get("stealth")
    if stealth is not None:
        extra += f" and the optimiser, tries to keep its loss within {stealth:g} nats of the start"
    return f"sees the weights at every step{extra}"


def _order(config: OnlineConfig, images: bool) -> str:
    stream = config.stream
    if config.attack.settings.get("stage") == "code":
        return "owns the training code: after the defence"
    if not images:
        return "features, neither cropped nor rounded"
    order = {
        "before": "after the victim's crop and flip",
        "after": "before the victim's crop and flip",
        "none": "no augmentation",
    }[stream.augment]
    return f"{order}, then 8-bit rounding" if stream.quantise else order


def _defender(config: OnlineConfig) -> str:
    requires = REGISTRIES["defense"].get(config.defense.name).requires
    needs = f" and needs {', '.join(sorted(requires))}" if requires else ""
    clip = f", gradient clipped at {config.optim.clip_norm:g}" if config.optim.clip_norm < float("inf") else ""
    code = config.attack.settings.get("stage") == "code"
    owns = "owns the training but for what the attacker put into its code" if code else "owns the training"
    return f"defender ({config.defense.name}{clip}) {owns}{needs}, never told which rows are poisoned"
