import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from accupoison.records.files import read_json
from accupoison.records.recorder import TAGS, MetricsLog, RunRecorder, TensorBoard, read_metrics, tags_markdown
from accupoison.records.run_directory import RunDirectory
from accupoison.records.tags import LAYOUT, shown_as
from accupoison.records.tensorboard import _hparam, _layout
from tests.clock import next_second
from tests.messages import refuses

ROOT = Path(__file__).parent.parent.parent
DECIDED = """
    test/acc test/acc_bn_reestimated test/loss test/shifted_acc test/shifted_acc_bn_reestimated
    monitor/acc stream/acc monitor/acc_low monitor/acc_high test/novel_classes_acc dp/epsilon
    audit/auc audit/auc_burnin stream/loss attack/poisoned_rows
    defense/noisy_auc attack/trigger_step attack/linf attack/alignment attack/feasible attack/objective
    attack/scale defense/discrepancy_clean defense/discrepancy_sent defense/discrepancy_seen
    defense/discrepancy_auc_clean defense/discrepancy_auc_noise defense/threshold defense/inner_steps
    detectors/kd_auc_clean detectors/kd_auc_noise detectors/lid_auc_clean detectors/lid_auc_noise
    detectors/gda_auc_clean detectors/gda_auc_noise detectors/gmm_auc_clean detectors/gmm_auc_noise
    detectors/loss_auc_clean detectors/loss_auc_noise
    defense/noise_rate defense/mixture_separation defense/drift defense/undone
    defense/redirected defense/canary_rise defense/canary_bound
    defense/rejected optim/lr optim/grad_norm optim/update_norm optim/distance_from_start time/step_s time/attack_s
    time/defense_s time/update_s time/evaluate_s time/epoch_s train/loss train/acc"""


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show of one run."""
    events = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(e.step, round(float(e.tensor_proto.float_val[0]), 6)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.create(tmp_path / "run", {"seed": 1, "defense": {"eps": math.inf}}, {}) as made:
        yield made


def test_tags_are_frozen() -> None:
    assert set(TAGS) == set(DECIDED.split())
    assert all(text and "\n" not in text and "|" not in text for text in TAGS.values())
    assert {tag for charts in LAYOUT.values() for tags in charts.values() for tag in tags} <= set(TAGS)


def test_the_list_of_tags_is_up_to_date() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == tags_markdown()


def test_rows_come_back_and_are_strict_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    log.log({"test/acc": 0.1, "x/mine": math.nan}, 0)
    log.log({"test/loss": -math.inf, "defense/threshold": math.inf, "defense/inner_steps": 3}, 1, "coast")
    rows = read_metrics(tmp_path / "m.jsonl")  # readable while it is open
    log.close()
    expected = [
        {"step": 0, "branch": "", "test/acc": 0.1, "x/mine": math.nan},
        {
            "step": 1,
            "branch": "coast",
            "test/loss": -math.inf,
            "defense/threshold": math.inf,
            "defense/inner_steps": 3.0,
        },
    ]
    assert repr(rows) == repr(expected)
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[1])["test/loss"] == "-inf"


@pytest.mark.parametrize("tag", ["test/accuracy", "acc", "X/mine", "step"])
def test_an_unknown_tag_is_a_bug(run: RunDirectory, tag: str) -> None:
    with RunRecorder(run, []) as recorder, refuses("unknown tag", ValueError):
        recorder.log({"test/acc": 1.0, tag: 1.0}, 0)
    assert read_metrics(run.path / "metrics.jsonl") == []
    board = TensorBoard(run.path)
    with refuses("unknown tag", ValueError):
        board.log({tag: 1.0}, 0)
    board.close()


def test_a_half_written_last_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.log({"test/acc": 0.5}, 0)
    log.log({"test/acc": 0.25}, 1)
    log.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        assert [row["step"] for row in read_metrics(path)] == ([0, 1] if size == len(whole) - 1 else [0])
    path.write_bytes(whole[:5] + whole[first:])
    with refuses("1 damaged"):
        read_metrics(path)
    with refuses("cannot read"):
        read_metrics(tmp_path / "none.jsonl")


def test_truncate_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    log.log({"test/acc": 0.5}, 0)
    position = log.sync()
    assert position["bytes"] == path.stat().st_size
    log.log({"test/acc": 0.9}, 1)
    log.close()
    again = MetricsLog(path, position)
    again.log({"test/acc": 0.25}, 1)
    assert [row["test/acc"] for row in read_metrics(path)] == [0.5, 0.25]
    again.close()
    with refuses("fewer 10000 checkpoint"):
        MetricsLog(path, 10_000)


def test_a_full_disk_is_one_sentence(run: RunDirectory) -> None:
    recorder = RunRecorder(run, [])
    recorder.log({"test/acc": 0.5}, 0)
    recorder.sync()  # else TensorBoard's thread may meet the limit, too
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (run.path.joinpath("metrics.jsonl").stat().st_size + 10, hard))
    try:
        with refuses("metrics.jsonl File too large"):
            recorder.log({"test/acc": 0.25}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    recorder.close()
    assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl")] == [0]


def test_a_log_that_cannot_be_opened(run: RunDirectory) -> None:
    (run.path / "metrics.jsonl").mkdir()
    with refuses("metrics.jsonl Is a directory"):
        RunRecorder(run, [])


def test_resume_hides_what_came_after_the_checkpoint_and_no_more(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunRecorder(run, ["coast"]) as first:
        for step in range(3):
            first.log({"test/acc": step / 10}, step, "coast" if step == 2 else "")
        offset = first.sync()
        kept = (run.path / "metrics.jsonl").read_bytes()
        for step in (3, 4, 5):
            first.log({"test/acc": 0.9}, step, "coast" if step == 5 else "")
    next_second(monkeypatch)
    with RunRecorder(run, ["coast"], offset) as second:
        assert (run.path / "metrics.jsonl").read_bytes() == kept
        second.log({"test/acc": 0.5}, 3, "coast")
    assert scalars(run.path)["accuracy/test"] == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.5)]
    assert [row["step"] for row in read_metrics(run.path / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_run_without_a_checkpoint_begins_again(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0.9, 0.5):
        with RunRecorder(run, ["a", "b"]) as recorder:
            recorder.log({"test/acc": value}, 0)
            if value == 0.9:
                recorder.log({"test/acc": value}, 1, "b")
        next_second(monkeypatch)
    assert [row["test/acc"] for row in read_metrics(run.path / "metrics.jsonl")] == [0.5]
    assert scalars(run.path) == {"accuracy/test": [(0, 0.5)], "accuracy/test@a": [(0, 0.5)]}
    assert "custom_scalars__config__" in EventAccumulator(str(run.path)).Reload().Tags()["tensors"]


def test_metrics_cut_since_the_checkpoint(run: RunDirectory) -> None:
    with refuses("metrics.jsonl 0 bytes fewer 100"):
        RunRecorder(run, [], 100)


def test_close_writes_the_summary_once(run: RunDirectory) -> None:
    with RunRecorder(run, []) as recorder:
        recorder.log({"test/acc": 0.5}, 7)
        recorder.close({"status": "diverged", "drop": 0.25, "coast": {"after": 0.5}})
    assert read_json(run.path / "summary.json") == {"status": "diverged", "drop": 0.25, "coast": {"after": 0.5}}
    assert set(scalars(run.path)) == {"accuracy/test"}, "one number is no curve"


def test_every_path_is_one_curve_from_the_first_step(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def after(branch: str, *steps: int) -> None:
        for step in steps:
            recorder.log({"test/acc": step / 10, "optim/lr": 0.1}, step, branch)

    with RunRecorder(run, ["coast", "clean", "adversarial"]) as recorder:
        after("", 0, 1, 2)
        after("coast", 3, 4)
        after("clean", 3)
        position = recorder.sync()
        after("clean", 4)
        after("adversarial", 3)
        recorder.image("images/rows", np.zeros((2, 2, 3), np.uint8), 2)
    next_second(monkeypatch)
    with RunRecorder(run, ["coast", "clean", "adversarial"], position) as recorder:
        after("clean", 4)
        after("adversarial", 3, 4)
    whole = [(step, step / 10) for step in range(5)]
    shown = scalars(run.path)
    assert shown.pop("optim/lr") == [(step, 0.1) for step in range(5)], "of the last path alone"
    assert shown == dict.fromkeys(["accuracy/test", "accuracy/test@coast", "accuracy/test@clean"], whole)
    events = EventAccumulator(str(run.path)).Reload()
    assert events.SummaryMetadata("accuracy/test@coast").summary_description == TAGS["test/acc"]
    assert [event.step for event in events.Tensors("images/rows")] == [2]
    assert not [path for path in run.path.iterdir() if path.is_dir()], "one entry a run"


def test_charts_come_when_there_is_something_in_them(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def titles() -> list[str]:
        shown = EventAccumulator(str(run.path)).Reload().Tensors("custom_scalars__config__")
        layout = Layout.FromString(shown[-1].tensor_proto.string_val[0])
        return [chart.title for category in layout.category for chart in category.chart]

    interval = {"monitor/acc": 0.5, "monitor/acc_low": 0.4, "monitor/acc_high": 0.6}
    with RunRecorder(run, ["coast"]) as recorder:
        recorder.log({"test/acc": 0.5}, 0)
        recorder.log({"test/acc": 0.5, "audit/auc": 0.5}, 1)
        position = recorder.sync()
        assert titles() == ["test images, on the path of each trigger", "AUC"]
    next_second(monkeypatch)
    with RunRecorder(run, ["coast"], position) as recorder:
        recorder.log({"test/acc": 0.5} | interval, 2)
    assert titles() == ["test images, on the path of each trigger", "monitor images, with 95% interval", "AUC"]


def test_a_band_has_a_curve_and_two_ends() -> None:
    chart = _layout({"accuracy/monitor"})["accuracy"]["monitor images, with 95% interval"]
    assert chart == ["Margin", ["accuracy/monitor", "monitor/acc_low", "monitor/acc_high"]]


def test_without_a_summary_nothing_claims_that_the_run_ended(run: RunDirectory) -> None:
    with RunRecorder(run, []) as recorder:
        recorder.log({"test/acc": 0.5}, 7)
    assert not (run.path / "summary.json").exists()
    assert not any("hparams" in tag for tag in EventAccumulator(str(run.path)).Reload().Tags()["tensors"])


def test_accuracies_come_first_in_tensorboard() -> None:
    names = {tag: shown_as(tag) for tag in TAGS}
    assert len(set(names.values())) == len(TAGS)
    assert min(names.values()).startswith("accuracy/")
    assert {name for tag, name in names.items() if name != tag} == {
        "accuracy/test",
        "accuracy/test_bn_reestimated",
        "accuracy/test_novel_classes",
        "accuracy/test_shifted",
        "accuracy/test_shifted_bn_reestimated",
        "accuracy/train",
        "accuracy/monitor",
    }
    assert shown_as("x/acc") == "x/acc", "of another package"
    assert sorted(names.values())[:2] == ["accuracy/monitor", "accuracy/test"], "the first charts"


def test_settings_become_hyperparameters_that_tensorboard_can_show() -> None:
    values = [math.inf, math.nan, True, (1, 2), None, "a", 3, 0.5]
    assert [_hparam(value) for value in values] == ["inf", "nan", "true", "[1, 2]", None, "a", 3, 0.5]
