from typing import Any

import pytest

from accupoison.attacks import ATTACKS
from accupoison.config.layers import preset, presets
from accupoison.config.schema import OnlineConfig, online_config
from accupoison.config.threat_model import threat_model
from accupoison.defenses import DEFENSES


def config(*layers: dict[str, Any], preset_name: str = "fresh") -> OnlineConfig:
    return online_config([preset("online", preset_name), *layers])


def test_the_default_in_full() -> None:
    assert threat_model(config()) == (
        "attacker (accumulative) sees the weights at every step, perturbs every image before the trigger and the "
        "trigger batch within l_inf 16/255 (before the victim's crop and flip, then 8-bit rounding), keeps labels, has "
        "held-out images of its own, does not know the defence; trigger: adversarial; defender (ST) owns the training, "
        "never told which rows are poisoned"
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
