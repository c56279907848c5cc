"""The threat model of a run in one line."""

from accupoison.attacks import Clean, PixelAttack
from accupoison.attacks.planned import PlannedAttack
from accupoison.attacks.twins import CodePoisoning
from accupoison.config.schema import BurninConfig, OnlineConfig
from accupoison.defenses import Defense
from accupoison.release.base import MEMBERS


def threat_model(config: OnlineConfig, *, images: bool = True) -> str:
    """Return one line that says who knows, owns and may do what.

    Args:
        config: All settings.
        images: The data are images; features are neither cropped nor rounded.
    """
    return f"{_attacker(config, images)}; {_defender(config)}{_answers(config)}"


def burnin_threat_model(config: BurninConfig) -> str:
    """Return one line that says who poisons a burn-in, and how it is trained; "" where nobody does and nobody defends.

    Args:
        config: All settings.
    """
    if type(config.attack) is Clean and type(config.defense) is Defense:
        return ""
    attacker = "no attacker" if type(config.attack) is Clean else _planner(config, "sample")
    return f"{attacker}; {_defender(config)}"


def _attacker(config: OnlineConfig, images: bool) -> str:
    attack = config.attack
    noun = "image" if images else "sample"
    poisons = type(attack) is not Clean
    crafted = bool(config.trigger.crafted)
    if not poisons and not crafted:
        return "no attacker"
    if isinstance(attack, PlannedAttack | CodePoisoning):
        return _planner(config, noun)
    ratio = attack.ratio if isinstance(attack, PixelAttack) else 1
    some = f"every {noun}" if ratio == 1 else f"{ratio:.0%} of the {noun}s"
    what = f"{some} before the trigger" if poisons else "the trigger batch alone"
    what += " and the trigger batch" if poisons and crafted else ""
    limit = "no stated budget"
    if isinstance(attack, PixelAttack):
        limit = f"l_inf {attack.eps * 255:.3g}/255"
        if attack.warm_start_ball and "optimised" in config.trigger.types:
            limit += ", the trigger's measured from the last crafted one and so unbounded"
    labels = "keeps labels" if attack.keeps_labels else "may change labels"
    held = f"{noun}s of the test set" if config.data.splits == "released_split" else f"held-out {noun}s of its own"
    sees = "sees what the defence passes on" if attack.in_code else "does not know the defence"
    return (
        f"attacker ({attack.name}) {_knowledge(config, crafted)}, perturbs {what} within {limit} "
        f"({_order(config, images)}), {labels}, has {held}, {sees}; "
        f"trigger: {', '.join(config.trigger.types)}"
    )


def _planner(config: OnlineConfig | BurninConfig, noun: str) -> str:
    """Return the line of an attacker who relabels samples or adds some of its own."""
    attack = config.attack
    sees = "sees the weights" if attack.sees_model else "sees nothing of the model"
    labels = "keeps labels" if attack.keeps_labels else "gives wrong labels"
    defence = "does not know the defence"
    if attack.in_code:
        defence = "owns the training code: after the defence"
    trigger = f"; trigger: {', '.join(config.trigger.types)}" if isinstance(config, OnlineConfig) else ""
    return f"attacker ({attack.name}) {sees}, {attack.spending.text(noun)}, {labels}, {defence}{trigger}"


def _knowledge(config: OnlineConfig, crafted: bool) -> str:
    attack = config.attack
    if config.stream.replay is not None:
        return f"sees nothing of this model and sends what it made in {config.stream.replay}"
    if not attack.sees_model and not crafted:
        return "sees nothing of the model"
    extra = f" and {', '.join(sorted(attack.knows))}" if attack.knows else ""
    if isinstance(attack, PixelAttack) and attack.max_loss_increase is not None:
        extra += f" and the optimiser, tries to keep its loss within {attack.max_loss_increase:g} nats of the start"
    return f"sees the weights at every step{extra}"


def _order(config: OnlineConfig, images: bool) -> str:
    stream = config.stream
    if config.attack.in_code:
        return "owns the training code: after the defence"
    if not images:
        return "features, neither cropped nor rounded"
    order = {
        "before": "after the victim's crop and flip",
        "after": "before the victim's crop and flip",
        "none": "no augmentation",
    }[stream.augment]
    return f"{order}, then 8-bit rounding" if stream.quantise else order


def _defender(config: OnlineConfig | BurninConfig) -> str:
    requires = config.defense.requires
    needs = f" and needs {', '.join(sorted(requires))}" if requires else ""
    clip = f", gradient clipped at {config.update.clip_norm:g}" if config.update.clip_norm < float("inf") else ""
    owns = "owns the training"
    if config.attack.in_code:
        owns += " but for what the attacker put into its code"
    return f"defender ({config.defense.name}{clip}) {owns}{needs}, never told which rows are poisoned"


def _answers(config: OnlineConfig) -> str:
    """Return what leaves the model, where that is not its probabilities."""
    release = config.release
    if release.name == "identity":
        return ""
    learns = ", which knows members of the burn-in and the trusted images" if MEMBERS in release.requires else ""
    return f"; answers are released by {release.spec}{learns}"
