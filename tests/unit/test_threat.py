import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from accupoison.attacks import ATTACKS, Attack
from accupoison.config.layers import preset, presets
from accupoison.config.schema import OnlineConfig, burnin_config, online_config
from accupoison.config.taxonomy import NAMES, NOTE, RULES
from accupoison.config.threat_model import ThreatModel, burnin_threat, online_threat, threat_model
from accupoison.defenses import DEFENSES
from accupoison.records.files import read_json, write_json
from accupoison.types import Batch, Context, ModelView


def config(*layers: dict[str, Any], preset_name: str = "fresh") -> OnlineConfig:
    return online_config([preset("online", preset_name), *layers])


def test_the_default_in_full() -> None:
    assert threat_model(config()) == (
        "attacker (accumulative) sees the weights at every step, perturbs every image before the trigger and the "
        "trigger batch within l_inf 16/255 (before the victim's crop and flip, then 8-bit rounding), keeps labels, has "
        "held-out images of its own, does not know the defence; trigger: coast, adversarial; defender (ST) owns the "
        "training, never told which rows are poisoned"
    )


@pytest.mark.parametrize("name", presets("online"))
@pytest.mark.parametrize("attack", ATTACKS.names())
@pytest.mark.parametrize("defense", DEFENSES.names())
def test_every_run_has_one_line(name: str, attack: str, defense: str) -> None:
    text = threat_model(config({"attack": {"name": attack}, "defense": {"name": defense}}, preset_name=name))
    assert "\n" not in text
    assert attack in text
    assert f"defender ({defense}" in text
    needs = DEFENSES.get(defense).requires
    assert (f"and needs {', '.join(sorted(needs))}" in text) == bool(needs)


@pytest.mark.parametrize(
    ("attack", "deliver", "inside", "outside"),
    [
        ("none", "coast,clean", "no attacker; defender", "perturbs"),
        ("none", "none", "no attacker; defender", "perturbs"),
        ("none", "adversarial", "perturbs the trigger batch alone within", "every image"),
        ("none", "clean,adversarial", "trigger: clean, adversarial;", "every image"),
        ("accumulative", "clean", "perturbs every image before the trigger within", "and the trigger batch"),
        ("accumulative", "optimised", "before the trigger and the trigger batch within", "alone"),
        ("direct", "adversarial", "attacker (direct) sees the weights at every step", "sees nothing"),
        ("noise", "none", "attacker (noise) sees nothing of the model, perturbs every image", "sees the weights"),
        ("noise", "adversarial", "attacker (noise) sees the weights at every step", "sees nothing"),
    ],
)
def test_what_the_attacker_sees_and_perturbs(attack: str, deliver: str, inside: str, outside: str) -> None:
    text = threat_model(config({"attack": {"name": attack}, "trigger": {"types": deliver}}))
    assert inside in text
    assert outside not in text


@pytest.mark.parametrize(
    ("eps", "shown"), [("8/255", "8/255"), ("0.1", "25.5/255"), ("0", "0/255"), ("1", "255/255"), ("1/510", "0.5/255")]
)
def test_the_budget_is_in_levels(eps: str, shown: str) -> None:
    assert f"within l_inf {shown} (" in threat_model(config({"attack": {"eps": eps}}))


@pytest.mark.parametrize(
    ("augment", "quantise", "shown"),
    [
        ("before", False, "(after the victim's crop and flip)"),
        ("before", True, "(after the victim's crop and flip, then 8-bit rounding)"),
        ("after", False, "(before the victim's crop and flip)"),
        ("none", True, "(no augmentation, then 8-bit rounding)"),
    ],
)
def test_the_order_of_events(augment: str, quantise: bool, shown: str) -> None:
    assert shown in threat_model(config({"stream": {"augment": augment, "quantise": quantise}}))


def test_the_released_protocol_admits_what_it_does() -> None:
    text = threat_model(config(preset_name="released"))
    assert "within l_inf 51/255 (after the victim's crop and flip)" in text
    assert "has images of the test set" in text
    assert "unbounded" not in text
    moving = threat_model(config({"trigger": {"types": "optimised"}}, preset_name="released"))
    assert "l_inf 51/255, the trigger's measured from the last crafted one and so unbounded" in moving


def test_clipping_beside_a_defence_is_named() -> None:
    text = threat_model(config({"update": {"clip_norm": 0.25}, "defense": {"name": "OURS"}}))
    assert "defender (DSC, gradient clipped at 0.25) owns the training and needs snapshot, trusted-unlabelled," in text
    assert "clipped" not in threat_model(config())


def test_a_ratio_below_one_is_named() -> None:
    text = threat_model(config({"attack": {"ratio": 0.5}}))
    assert "perturbs 50% of the images before the trigger and the trigger batch" in text


def test_who_else_may_do_what() -> None:
    code = threat_model(config({"attack": {"channel": "code"}}))
    assert "(owns the training code: after the defence)" in code
    assert "sees what the defence passes on" in code
    assert "does not know the defence" not in code
    assert "owns the training but for what the attacker put into its code" in code
    stealthy = threat_model(config({"attack": {"max_loss_increase": 0.25}}))
    assert "and the optimiser, tries to keep its loss within 0.25 nats of the start" in stealthy
    replayed = threat_model(config({"stream": {"replay": "logs/a"}}))
    assert "attacker (accumulative) sees nothing of this model and sends what it made in logs/a" in replayed
    features = threat_model(config(), images=False)
    assert "perturbs every sample" in features
    assert "features, neither cropped nor rounded" in features


def test_what_leaves_the_model_is_named() -> None:
    assert threat_model(config({"release": {"name": "round", "digits": 3}})).endswith(
        "never told which rows are poisoned; answers are released by round:digits=3"
    )
    learns = threat_model(config({"release": {"name": "defenmi", "budget": 0.5}}))
    assert "released by defenmi:budget=0.5, which knows members of the burn-in and the trusted images" in learns


AVAILABILITY = "NISTAML.01 NISTAML.012 NISTAML.013 AML.T0020 AML.T0031 ML02:2023 ML08:2023"
MEMBERSHIP = "NISTAML.03 NISTAML.033 AML.T0024.000 ML04:2023"
IN_CODE = "NISTAML.05 NISTAML.051 AML.T0010 AML.T0018.000 ML06:2023"
POISON = "AML.T0020 ML02:2023"
ADAPTIVE = ["accumulative-statistics", "denial", "statistics", "through-dsc", "under-radar", "unrolled"]
OF_STREAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "none": ((), ""),
    "noise": (("control",), ""),
    "accumulative": (("availability",), AVAILABILITY),
    "direct": (("availability",), AVAILABILITY),
    **dict.fromkeys(ADAPTIVE, (("availability",), AVAILABILITY)),
    "backdoor": (("backdoor",), f"NISTAML.02 NISTAML.023 AML.T0018.000 {POISON} ML08:2023"),
    "dirty-label": (("privacy",), f"NISTAML.013 {MEMBERSHIP} {POISON} ML08:2023"),
    "targeted": (("privacy",), f"NISTAML.013 {MEMBERSHIP} {POISON} ML08:2023"),
    "clean-label": (("privacy",), f"NISTAML.012 NISTAML.013 {MEMBERSHIP} {POISON} ML08:2023"),
    "code": (("privacy",), f"{MEMBERSHIP} {IN_CODE}"),
}
"""What each attack on a stream is after, with a trigger that nobody crafts, and the ids that follow."""


def ids_of(threat: ThreatModel | None) -> set[str]:
    assert threat is not None
    found = [one["id"] for one in threat.as_dict()["ids"]]
    assert len(found) == len(set(found))
    return set(found)


def stream(attack: str, **settings: str) -> ThreatModel:
    return online_threat(config({"attack": {"name": attack, **settings}, "trigger": {"types": "clean"}}))


def test_every_attack_that_ships_has_its_row() -> None:
    shipped = {name for name in ATTACKS.names() if ATTACKS.get(name).__module__.startswith("accupoison.attacks")}
    assert set(OF_STREAMS) == shipped
    assert all(one in NAMES for _, found in RULES for one in found.split())


@pytest.mark.parametrize("attack", OF_STREAMS)
def test_the_ids_of_an_attack_on_a_stream(attack: str) -> None:
    objective, ids = OF_STREAMS[attack]
    assert stream(attack).objective == objective
    assert ids_of(stream(attack)) == set(ids.split())


@pytest.mark.parametrize("attack", ["backdoor", "clean-label", "code", "dirty-label", "targeted"])
def test_a_burn_in_has_the_ids_of_a_stream_but_for_its_feedback(attack: str) -> None:
    made = burnin_config([{"attack": {"name": attack}}])
    found = burnin_threat(made)
    assert ids_of(found) == set(OF_STREAMS[attack][1].split()) - {"ML08:2023"}
    assert found is not None
    assert found.as_dict()["stage"] == "training: burn-in"


def test_the_channel_the_trigger_and_the_audit_have_their_ids() -> None:
    assert ids_of(stream("accumulative", channel="code")) == {
        "NISTAML.01",
        "NISTAML.011",
        "AML.T0031",
        *IN_CODE.split(),
    }
    crafted = online_threat(config({"attack": {"name": "noise"}, "trigger": {"types": "adversarial"}}))
    assert crafted.objective == ("control", "availability")
    assert ids_of(crafted) == set(AVAILABILITY.split())
    for asked in ({"evaluate": {"audit_every": 2}}, {"release": {"name": "round"}}):
        found = online_threat(config({"attack": {"name": "none"}, "trigger": {"types": "clean"}}, asked))
        assert found.objective == ()
        assert ids_of(found) == set(MEMBERSHIP.split())
    clean = burnin_config([])
    assert burnin_threat(clean) is None
    assert ids_of(burnin_threat(clean, asked=True)) == set(MEMBERSHIP.split())


def test_the_threat_model_as_data(tmp_path: Path) -> None:
    found = online_threat(config({"attack": {"ratio": 0.5}})).as_dict()
    assert found["line"] == threat_model(config({"attack": {"ratio": 0.5}}))
    attacker = found["attacker"]
    assert attacker["budget"] == {"does": "perturbs", "eps": 16 / 255, "ratio": 0.5, "copies": 0}
    assert attacker["label_limit"] == "keeps labels"
    assert attacker["knowledge"]["model"] == "sees the weights at every step"
    assert {one["version"] for one in found["ids"]} == {"E2025", "4.5.2", "2023"}
    assert next(one for one in found["ids"] if one["id"] == "NISTAML.012") == {
        "id": "NISTAML.012",
        "name": "Clean-label Poisoning",
        "source": "NIST AI 100-2",
        "version": "E2025",
        "because": "availability, wire, labels kept",
    }
    assert found["note"] == NOTE
    assert "no term for a trigger batch" in NOTE
    for name in ("a", "b"):
        write_json(tmp_path / name, online_threat(config({"attack": {"ratio": 0.5}})).as_dict())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_json(tmp_path / "a") == json.loads(json.dumps(found))


def test_an_attack_of_another_package_says_what_it_is_after(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {kind: dict(getattr(ATTACKS, kind)) for kind in ("_things", "_aliases")}
    for kind, found in names.items():
        monkeypatch.setattr(ATTACKS, kind, found)

    @ATTACKS.register("silent")
    @dataclass(kw_only=True)
    class Silent(Attack):
        def poison(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return batch

    @ATTACKS.register("outspoken")
    @dataclass(kw_only=True)
    class Outspoken(Silent):
        threat: ClassVar[tuple[str, ...]] = ("targeted", "NISTAML.034", "X.1")

    assert stream("silent").objective == ("unstated",)
    assert ids_of(stream("silent")) == {*POISON.split(), "ML08:2023"}
    found = {one["id"]: one for one in stream("outspoken").as_dict()["ids"]}
    assert {"NISTAML.02", "NISTAML.024", "NISTAML.012", "NISTAML.034", "X.1"} <= set(found)
    assert found["NISTAML.034"]["source"] == "NIST AI 100-2"
    assert found["X.1"] == {"id": "X.1", "name": "", "source": "", "version": "", "because": "the attack says so"}
    with pytest.raises(TypeError, match="begin it with one of unstated, availability"):
        type("Typo", (Silent,), {"threat": ("avalability",)})
