"""A real TensorBoard server shows what a run recorded."""

import io
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from accupoison.audit.writers import write_events
from accupoison.records.recorder import TAGS, RunRecorder
from accupoison.records.run_directory import RunDirectory
from tests.clock import next_second

T = TypeVar("T")
Ask = Callable[..., Any]


def poisoned_run(path: Path) -> None:
    """Write shared steps and two branches; the process dies in the second, after a checkpoint, and is resumed."""
    config = {
        "seed": 1,
        "defense": {"name": "DSC", "threshold": float("inf")},
        "trigger": {"types": ["coast", "clean"]},
    }
    with RunDirectory.create(path, config, {}) as run:
        branches = ["coast", "clean"]
        with RunRecorder(run, branches) as recorder:
            recorder.text("about/2 threat model", "attacker (accumulative) sees *everything*")
            for t in range(3):
                recorder.log({"test/acc": 0.9 - t / 10, "test/acc_bn_reestimated": 0.95, "attack/linf": 0.0625}, t)
            recorder.image("images/rows", np.arange(8 * 32 * 3, dtype=np.uint8).reshape(8, 32, 3), 2)
            recorder.log({"test/acc": 0.5, "x/third": 1.0}, 3, "coast")
            recorder.log({"test/acc": 0.5625}, 4, "coast")
            recorder.log({"test/acc": 0.25, "x/third": 1.0}, 3, "clean")
            offset = recorder.sync()
            recorder.log({"test/acc": 0.99}, 4, "clean")
            recorder.log({"test/acc": 0.99}, 5, "clean")
        with pytest.MonkeyPatch.context() as patch:
            next_second(patch)
            with RunRecorder(run, branches, offset) as recorder:
                recorder.log({"test/acc": 0.375}, 4, "clean")
                recorder.close({"status": "done"}, {"accuracy": {"before": 0.7, "clean": {"after": 0.25}}, **config})
        curve = {"auc_by_recency": [(1, 0.7), (2, 0.6)]}
        write_events(path / "audit" / "stream", [[{"attack": "loss", "AUC": "0.5"}]], curve)


def other_run(path: Path) -> None:
    """Write a run of another defence with one branch."""
    config = {"seed": 2, "defense": {"name": "CLIP", "norm": 1.5}}
    with RunDirectory.create(path, config, {}) as run, RunRecorder(run, ["clean"]) as recorder:
        recorder.log({"test/acc": 0.75}, 0)
        recorder.log({"test/acc": float("nan"), "audit/auc": 0.5}, 1, "clean")
        recorder.close({"status": "diverged"}, config)


@pytest.fixture(scope="module", params=["false", "true"], ids=["python loader", "fast loader"])
def ask(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    if request.param == "true":
        pytest.importorskip("tensorboard_data_server")
    logs, errors = tmp_path_factory.mktemp("logs"), tmp_path_factory.mktemp("server") / "stderr"
    poisoned_run(logs / "poisoned")
    other_run(logs / "other")
    arguments = ["--logdir", str(logs), "--port", "0", "--host", "127.0.0.1"]
    arguments += [f"--load_fast={request.param}", "--reload_interval", "1"]
    with errors.open("w") as stderr:
        server = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *arguments], stderr=stderr, stdout=stderr)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        address = wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+/", errors.read_text()), server, errors)[0]

        def get(route: str, body: object = None, **query: str) -> Any:  # noqa: ANN401
            url = f"{address}data/{route}?{urllib.parse.urlencode(query)}"
            data = None if body is None else json.dumps(body).encode()
            asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with opener.open(asked) as response:
                content = response.read()
            return json.loads(content) if "json" in response.headers["Content-Type"] else content

        wait_for(lambda: len(get("runs")) == 2 or None, server, errors)
        yield get
    finally:
        server.terminate()
        server.wait()


def wait_for(condition: Callable[[], T | None], server: "subprocess.Popen[bytes]", errors: Path) -> T:
    while not (found := condition()):
        if server.poll() is not None:
            pytest.fail(f"TensorBoard has ended: {errors.read_text()[-2000:]}")
        time.sleep(0.1)
    return found


def values(ask: Ask, run: str, tag: str = "accuracy/test") -> list[tuple[int, float]]:
    return [(step, round(value, 5)) for _, step, value in ask("plugin/scalars/scalars", run=run, tag=tag)]


def test_a_run_is_one_entry_its_audits_included(ask: Ask) -> None:
    assert sorted(ask("runs")) == ["other", "poisoned"]
    assert sorted(ask("plugin/scalars/tags")["poisoned"]) == [
        "accuracy/test",
        "accuracy/test@coast",
        "accuracy/test_bn_reestimated",
        "accuracy/test_bn_reestimated@coast",
        "attack/linf",
        "audit/stream/auc_by_recency",
        "x/third",
    ]


def test_every_tag_of_ours_has_a_description(ask: Ask) -> None:
    tags = ask("plugin/scalars/tags")["poisoned"]
    assert all(about["description"] for tag, about in tags.items() if not tag.startswith(("x/", "audit/stream/")))
    assert TAGS["test/acc"].partition(";")[0] in tags["accuracy/test@coast"]["description"]


def test_each_trigger_has_a_curve_from_the_first_step_and_resume_hides_what_was_lost(ask: Ask) -> None:
    assert values(ask, "poisoned") == [(0, 0.9), (1, 0.8), (2, 0.7), (3, 0.25), (4, 0.375)]
    assert values(ask, "poisoned", "accuracy/test@coast") == [(0, 0.9), (1, 0.8), (2, 0.7), (3, 0.5), (4, 0.5625)]
    assert values(ask, "poisoned", "attack/linf") == [(0, 0.0625), (1, 0.0625), (2, 0.0625)]


def test_the_layout_has_the_charts_that_are_not_empty_and_matches_no_other_tags(ask: Ask) -> None:
    layout = ask("plugin/custom_scalars/layout")
    charts = {
        c["title"]: {chart["title"]: chart["multiline"]["tag"] for chart in c["chart"]} for c in layout["category"]
    }
    assert list(charts) == ["accuracy", "membership"], "the second is of the other run, which met its tag later"
    assert charts["membership"] == {"AUC": ["^audit/auc(@.*)?$", "^audit/auc_burnin(@.*)?$"]}
    ((title, (tag,)),) = charts["accuracy"].items()
    assert title == "test images, on the path of each trigger"
    found = ask("plugin/custom_scalars/scalars", run="poisoned", tag=tag)
    assert found["regex_valid"]
    assert sorted(found["tag_to_events"]) == ["accuracy/test", "accuracy/test@coast"]


def test_images_and_texts_are_shown(ask: Ask) -> None:
    assert list(ask("plugin/images/tags")["poisoned"]) == ["images/rows"]
    (entry,) = ask("plugin/images/images", run="poisoned", tag="images/rows", sample="0")
    assert entry["step"] == 2
    content = ask("plugin/images/individualImage", **dict(urllib.parse.parse_qsl(entry["query"])))
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (32, 8)
        assert image.getpixel((0, 0)) == (0, 1, 2)
    texts = ask("plugin/text/tags")["poisoned"]
    assert {name.removesuffix("/text_summary") for name in texts} == {"about/2 threat model", "audit/stream/tables"}


def test_hyperparameters_of_all_runs_are_columns_accuracies_first(ask: Ask) -> None:
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"]: info for info in experiment["hparamInfos"]}
    own = {"seed", "defense.name", "defense.threshold", "defense.norm", "trigger.types"}
    assert set(names) == {*own, "accuracy.before", "accuracy.clean.after"}
    assert names["seed"]["type"] == "DATA_TYPE_FLOAT64"
    metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
    assert metrics[0] == "accuracy/test"


def test_every_run_is_a_row_with_its_settings_and_results(ask: Ask) -> None:
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [{"hparam": "defense.name"}, {"metric": {"tag": "accuracy/test", "group": ""}}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    answer = ask("plugin/hparams/session_groups", request)
    rows = {group["hparams"]["defense.name"]: group for group in answer["sessionGroups"]}
    assert set(rows) == {"DSC", "CLIP"}
    assert rows["DSC"]["hparams"]["defense.threshold"] == "inf"
    assert rows["DSC"]["hparams"]["accuracy.clean.after"] == 0.25
    (last,) = [m for m in rows["DSC"]["metricValues"] if m["name"]["tag"] == "accuracy/test"]
    assert last["value"] == 0.375
    assert [s["name"] for s in rows["DSC"]["sessions"]] == ["poisoned"]
