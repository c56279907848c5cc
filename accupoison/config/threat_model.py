"""The threat model of a run: as data, and in one line."""

from dataclasses import asdict, dataclass
from typing import Any

from accupoison.attacks import Attack, Clean, PixelAttack
from accupoison.attacks.base import DEFENCE
from accupoison.attacks.planned import PlannedAttack
from accupoison.attacks.twins import CodePoisoning
from accupoison.config.schema import BurninConfig, OnlineConfig
from accupoison.config.taxonomy import ASKED, BURNIN, CODE, KEPT, NOTE, STREAM, WIRE, ids
from accupoison.defenses import Defense
from accupoison.release.base import MEMBERS


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Who poisons, in words that follow each other in a line.

    Attributes:
        name: Of the attack.
        model: What it knows of the model.
        capability: What it may do, and how far.
        label_limit: What it may do to labels.
        data: The images that it holds; "" where its plan needs none.
        defence: What it knows of the defence.
    """

    name: str
    model: str
    capability: str
    label_limit: str
    data: str = ""
    defence: str

    @property
    def line(self) -> str:
        """All of it."""
        parts = self.model, self.capability, self.label_limit, self.data, self.defence
        return f"attacker ({self.name}) {', '.join(filter(None, parts))}"


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """Who knows, owns and may do what, and what others call that.

    Attributes:
        attacker: None where nobody attacks.
        objective: What the attacker is after, by :data:`accupoison.attacks.base.GOALS`.
        stage: The process that is poisoned: the stream or the burn-in.
        budget: What it may spend before the trigger, in numbers.
        trigger: What arrives at the end of a stream; empty for a burn-in.
        defender: What the defender owns and needs.
        release: What leaves the model, where that is not its probabilities.
        facts: What decides which ids apply; see :data:`accupoison.config.taxonomy.RULES`.
        declared: Further ids, which the attack claims for itself.
    """

    attacker: Attacker | None
    objective: tuple[str, ...]
    stage: str
    budget: dict[str, Any]
    trigger: tuple[str, ...]
    defender: str
    release: str
    facts: frozenset[str]
    declared: tuple[str, ...]

    @property
    def line(self) -> str:
        """The threat model in one line."""
        attacker = "no attacker"
        if self.attacker is not None:
            attacker = self.attacker.line + (f"; trigger: {', '.join(self.trigger)}" if self.trigger else "")
        return "; ".join(filter(None, [attacker, self.defender, self.release]))

    def as_dict(self) -> dict[str, Any]:
        """Return what ``threat.json`` holds."""
        attacker = {} if self.attacker is None else {key: text for key, text in asdict(self.attacker).items() if text}
        knowledge = {key: attacker.pop(key) for key in ("model", "data", "defence") if key in attacker}
        return {
            "line": self.line,
            "objective": list(self.objective),
            "stage": f"training: {self.stage}",
            "attacker": {**attacker, "knowledge": knowledge, "budget": self.budget} if attacker else None,
            "trigger": list(self.trigger),
            "defender": self.defender,
            "release": self.release,
            "ids": ids(self.facts, self.declared),
            "note": NOTE,
        }


def threat_model(config: OnlineConfig, *, images: bool = True) -> str:
    """Return the line of :func:`online_threat`."""
    return online_threat(config, images=images).line


def online_threat(config: OnlineConfig, *, images: bool = True) -> ThreatModel:
    """Return who knows, owns and may do what in an online run.

    Args:
        config: All settings.
        images: The data are images; features are neither cropped nor rounded.
    """
    crafted = bool(config.trigger.crafted)
    asked = config.evaluate.audit_every is not None or config.release.name != "identity"
    objective = _objective(config.attack) + (("availability",) if crafted else ())
    return ThreatModel(
        attacker=_attacker(config, images),
        objective=tuple(dict.fromkeys(objective)),
        stage=STREAM,
        budget=_budget(config.attack),
        trigger=config.trigger.types,
        defender=_defender(config),
        release=_answers(config),
        facts=_facts(config.attack, objective, STREAM, asked),
        declared=config.attack.threat[1:],
    )


def burnin_threat(config: BurninConfig, *, asked: bool = False) -> ThreatModel | None:
    """Return who poisons a burn-in, and how it is trained; None where nobody poisons, defends or asks for membership.

    Args:
        config: All settings.
        asked: The models are audited: somebody asks them for membership.
    """
    poisons = type(config.attack) is not Clean
    if not poisons and type(config.defense) is Defense and not asked:
        return None
    objective = _objective(config.attack)
    return ThreatModel(
        attacker=_planner(config.attack, "sample") if poisons else None,
        objective=objective,
        stage=BURNIN,
        budget=_budget(config.attack),
        trigger=(),
        defender=_defender(config),
        release="",
        facts=_facts(config.attack, objective, BURNIN, asked),
        declared=config.attack.threat[1:],
    )


def _objective(attack: Attack) -> tuple[str, ...]:
    return () if type(attack) is Clean else attack.threat[:1]


def _budget(attack: Attack) -> dict[str, Any]:
    return {} if type(attack) is Clean else {k: v for k, v in asdict(attack.spending).items() if v not in (None, "")}


def _facts(attack: Attack, objective: tuple[str, ...], stage: str, asked: bool) -> frozenset[str]:
    """Return what holds, in the words of the rules; a control alone is no attack."""
    facts = {ASKED} if asked else set()
    if set(objective) - {"control"}:
        facts |= {*objective, stage, CODE if attack.in_code else WIRE} | ({KEPT} if attack.keeps_labels else set())
    return frozenset(facts)


def _attacker(config: OnlineConfig, images: bool) -> Attacker | None:
    attack = config.attack
    noun = "image" if images else "sample"
    poisons = type(attack) is not Clean
    crafted = bool(config.trigger.crafted)
    if not poisons and not crafted:
        return None
    if isinstance(attack, PlannedAttack | CodePoisoning):
        return _planner(attack, noun)
    ratio = attack.ratio if isinstance(attack, PixelAttack) else 1
    some = f"every {noun}" if ratio == 1 else f"{ratio:.0%} of the {noun}s"
    what = f"{some} before the trigger" if poisons else "the trigger batch alone"
    what += " and the trigger batch" if poisons and crafted else ""
    limit = "no stated budget"
    if isinstance(attack, PixelAttack):
        limit = f"l_inf {attack.eps * 255:.3g}/255"
        if attack.warm_start_ball and "optimised" in config.trigger.types:
            limit += ", the trigger's measured from the last crafted one and so unbounded"
    held = f"{noun}s of the test set" if config.data.splits == "released_split" else f"held-out {noun}s of its own"
    return Attacker(
        name=attack.name,
        model=_knowledge(config, crafted),
        capability=f"perturbs {what} within {limit} ({_order(config, images)})",
        label_limit="keeps labels" if attack.keeps_labels else "may change labels",
        data=f"has {held}",
        defence=_of_defence(attack),
    )


def _of_defence(attack: Attack) -> str:
    if attack.in_code:
        return "sees what the defence passes on"
    if DEFENCE in attack.knows:
        return "knows the defence, its threshold and its early model"
    return "does not know the defence"


def _planner(attack: Attack, noun: str) -> Attacker:
    """Return an attacker who relabels samples or adds some of its own."""
    return Attacker(
        name=attack.name,
        model="sees the weights" if attack.sees_model else "sees nothing of the model",
        capability=attack.spending.text(noun),
        label_limit="keeps labels" if attack.keeps_labels else "gives wrong labels",
        defence="owns the training code: after the defence" if attack.in_code else "does not know the defence",
    )


def _knowledge(config: OnlineConfig, crafted: bool) -> str:
    attack = config.attack
    if config.stream.replay is not None:
        return f"sees nothing of this model and sends what it made in {config.stream.replay}"
    if not attack.sees_model and not crafted:
        return "sees nothing of the model"
    seen = sorted(attack.knows - {DEFENCE})
    extra = f" and {', '.join(seen)}" if seen else ""
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
    return f"answers are released by {release.spec}{learns}"
