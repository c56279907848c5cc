"""What a single run says of itself."""

from dataclasses import replace

from accupoison.config.schema import OnlineConfig
from accupoison.defenses import DEFENSES
from accupoison.measure.verdict import milestones, settings_text
from accupoison.records.files import flatten

SUMMARY = {
    "start": {"acc": 0.9, "loss": 1.0},
    "before": {"acc": 0.8},
    "branches": {"coast": {"after": {"acc": 0.75}}, "optimised": {"after": {"acc": 0.5}, "end": {"acc": 0.6}}},
}


def test_the_accuracies_of_a_run_are_among_the_five_columns_that_tensorboard_shows() -> None:
    config = replace(OnlineConfig(), defense=DEFENSES.build("DSC", {}))
    found = dict(flatten({"accuracy": milestones(SUMMARY, config)}))
    assert [(name, found[name]) for name in sorted(found)][:4] == [
        ("accuracy.after.coast", 0.75),
        ("accuracy.after.optimised", 0.5),
        ("accuracy.before", 0.8),
        ("accuracy.of", "OURS (DSC), accumulative"),
    ]


def test_a_run_that_has_not_come_to_its_trigger_has_the_accuracies_until_then() -> None:
    reached = milestones({"start": {"acc": 0.9}, "branches": {"none": {"end": {"acc": 0.6}}}}, OnlineConfig())
    assert reached == {"start": 0.9, "of": "ST, accumulative"}


def test_settings_are_a_line_a_section() -> None:
    text = settings_text({"stream": {"steps": 3, "kind": "iid"}, "trigger": {"types": ["coast"]}})
    assert text == "- **stream**: steps 3, kind iid\n- **trigger**: types ['coast']"
