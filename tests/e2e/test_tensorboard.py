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

import pytest
import torch
from PIL import Image

from accupoison.records.recorder import RunRecorder
from accupoison.records.run_directory import RunDirectory
from tests.clock import next_second

T = TypeVar("T")
Ask = Callable[..., Any]


def poisoned_run(path: Path) -> None:
    """Write a trunk and two branches; the process dies in the second, after a checkpoint, and is resumed."""
    config = {
        "seed": 1,
        "defense": {"name": "DSC", "threshold": float("inf")},
        "stream": {"triggers": ["coast", "clean"]},
    }
    with RunDirectory.create(path, config, {}) as run:
        branches = ["coast", "clean"]
        with RunRecorder(run, branches) as recorder:
            for t in range(3):
                recorder.log({"test/acc": 0.9 - t / 10, "test/acc_bn_reestimated": 0.95, "attack/linf": 0.0625}, t)
            recorder.images("images/sent", torch.linspace(0, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8), 2)
            recorder.log({"test/acc": 0.5, "x/third": 1.0}, 3, "coast")
            recorder.log({"test/acc": 0.5625}, 4, "coast")
            recorder.log({"test/acc": 0.25}, 3, "clean")
            offset = recorder.sync()
            recorder.log({"test/acc": 0.99}, 4, "clean")
            recorder.log({"test/acc": 0.99}, 5, "clean")
        with pytest.MonkeyPatch.context() as patch:
            next_second(patch)
            with RunRecorder(run, branches, (offset, 4)) as recorder:
                recorder.log({"test/acc": 0.375}, 4, "clean")
                recorder.close({"status": "done", "harm": 0.125, "clean": {"after": 0.375}})


def other_run(path: Path) -> None:
    """Write a run of another defence with one branch."""
    config = {"seed": 2, "defense": {"name": "CLIP", "norm": 1.5}}
    with RunDirectory.create(path, config, {}) as run, RunRecorder(run, ["clean"]) as recorder:
        recorder.log({"test/acc": 0.75}, 0)
        recorder.log({"test/acc": float("nan")}, 1, "clean")
        recorder.close({"status": "diverged", "harm": 0.5})


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

        wait_for(lambda: len(get("runs")) == 4 or None, server, errors)
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


def values(ask: Ask, run: str, tag: str = "test/acc") -> list[tuple[int, float]]:
    return [(step, round(value, 5)) for _, step, value in ask("plugin/scalars/scalars", run=run, tag=tag)]


def test_there_is_one_curve_for_the_trunk_and_one_for_each_branch(ask: Ask) -> None:
    assert sorted(ask("runs")) == ["other", "poisoned", "poisoned/branch-clean", "poisoned/branch-coast"]
    tags = ask("plugin/scalars/tags")
    assert set(tags["poisoned"]) == {
        "test/acc",
        "test/acc_bn_reestimated",
        "attack/linf",
        "summary/harm",
        "summary/clean.after",
    }
    assert set(tags["poisoned/branch-coast"]) == {"test/acc", "x/third"}


def test_scalars_are_those_of_the_metrics_file(ask: Ask) -> None:
    assert values(ask, "poisoned") == [(0, 0.9), (1, 0.8), (2, 0.7)]
    assert values(ask, "poisoned", "attack/linf") == [(0, 0.0625), (1, 0.0625), (2, 0.0625)]
    assert values(ask, "poisoned", "summary/harm") == [(4, 0.125)]


def test_resume_hides_the_lost_steps_of_one_branch_only(ask: Ask) -> None:
    assert values(ask, "poisoned/branch-coast") == [(3, 0.5), (4, 0.5625)]
    assert values(ask, "poisoned/branch-clean") == [(3, 0.25), (4, 0.375)]


def test_the_layout_groups_tags_and_matches_no_others(ask: Ask) -> None:
    layout = ask("plugin/custom_scalars/layout")
    everything = {chart["title"]: chart for c in layout["category"] for chart in c["chart"]}
    charts = {title: chart["multiline"]["tag"] for title, chart in everything.items() if "multiline" in chart}
    assert everything["monitor accuracy with its interval"]["margin"]["series"] == [
        {"value": "monitor/acc", "lower": "monitor/acc_low", "upper": "monitor/acc_high"}
    ]
    assert [c["title"] for c in layout["category"]] == ["accuracy", "discrepancy", "update", "attack", "audit"]
    assert len(charts["memorization discrepancy"]) == 3
    shown = {tag: ask("plugin/custom_scalars/scalars", run="poisoned", tag=tag) for tag in charts["accuracy"]}
    assert all(answer["regex_valid"] for answer in shown.values())
    found = [sorted(answer["tag_to_events"]) for answer in shown.values()]
    assert found == [["test/acc"], ["test/acc_bn_reestimated"], [], []]


def test_images_are_shown(ask: Ask) -> None:
    assert list(ask("plugin/images/tags")["poisoned"]) == ["images/sent"]
    (entry,) = ask("plugin/images/images", run="poisoned", tag="images/sent", sample="0")
    assert entry["step"] == 2
    content = ask("plugin/images/individualImage", **dict(urllib.parse.parse_qsl(entry["query"])))
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (32, 8)  # four images of 8 x 8 in a row
        assert (image.getpixel((0, 0)), image.getpixel((31, 7))) == ((0, 21, 42), (212, 233, 255))


def test_hyperparameters_of_all_runs_are_columns(ask: Ask) -> None:
    experiment = ask("plugin/hparams/experiment", {"experimentName": ""})
    names = {info["name"]: info for info in experiment["hparamInfos"]}
    assert set(names) == {"seed", "defense.name", "defense.threshold", "defense.norm", "stream.triggers"}
    assert names["seed"]["type"] == "DATA_TYPE_FLOAT64"
    metrics = {(info["name"]["tag"], info["name"].get("group", "")) for info in experiment["metricInfos"]}
    assert {("summary/harm", ""), ("test/acc", "branch-clean")} <= metrics


def test_every_run_is_a_row_with_its_settings_and_results(ask: Ask) -> None:
    request = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [{"hparam": "defense.name"}, {"metric": {"tag": "summary/harm", "group": ""}}],
        "startIndex": 0,
        "sliceSize": 10,
    }
    answer = ask("plugin/hparams/session_groups", request)
    rows = {group["hparams"]["defense.name"]: group for group in answer["sessionGroups"]}
    assert set(rows) == {"DSC", "CLIP"}
    assert rows["DSC"]["hparams"]["defense.threshold"] == "inf"
    (harm,) = [m for m in rows["DSC"]["metricValues"] if m["name"]["tag"] == "summary/harm"]
    assert harm["value"] == 0.125
    assert [s["name"] for s in rows["DSC"]["sessions"]] == ["poisoned"]
