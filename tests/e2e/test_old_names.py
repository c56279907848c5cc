"""Runs and checkpoints that have old names go on as if they had the new ones."""

from pathlib import Path

from accupoison.records.files import read_json, write_json
from tests.e2e.conftest import CHECKPOINT, ONLINE, SET, done, outcome, refused, resaved
from tests.messages import says

OLD = (SET, "data.splits=official", "--stream", "official", SET, "stream.augment=none")


def test_a_run_with_old_names_is_resumed_and_reported_without_a_word(work: Path) -> None:
    said = ["stream.kind=official is now called released_stream", "data.splits=official is now called released_split"]
    made = done(*ONLINE, "--checkpoint", CHECKPOINT, *OLD, "--out", "run")
    assert made.stderr.splitlines() == said
    config = read_json(Path("run/config.json"))
    assert (config["data"]["splits"], config["stream"]["kind"]) == ("released_split", "released_stream")
    config["data"]["splits"], config["stream"]["kind"] = "official", "official"
    write_json(Path("run/config.json"), config)
    kept = outcome(Path("run"))
    assert done("online", "--resume", "run", "--quiet").stderr == ""
    assert done(*ONLINE, *OLD, "--resume", "run").stderr.splitlines() == said
    assert outcome(Path("run")) == kept
    says(refused("online", "--resume", "run", "--recovery-steps", "2"), "stored 1, given 2)")
    assert "released_stream" in done("report", "run").stdout


def test_a_checkpoint_says_its_data_under_old_names(work: Path) -> None:
    done("burnin", "--recipe", "demo", "--config", "train.toml", "-q", SET, "data.splits=official", "--out", "old")
    old = resaved(Path("old/final.pt"), lambda payload: payload["data"].update(splits="official"), "old/old.pt")
    says(refused(*ONLINE, "--checkpoint", old), "set data.splits=released_split")
    done(*ONLINE, "--checkpoint", old, SET, "data.splits=released_split", "--out", "run")


def test_recipes_and_presets_by_old_names(work: Path) -> None:
    CHECKPOINT.parent.rename(CHECKPOINT.parent.with_name("digits-resnet8-w4-batch-live-seed0"))
    assert done(*ONLINE, SET, "start.recipe=live", "--out", "run").stderr.count("is now called online_ready") == 1
    assert read_json(Path("run/config.json"))["start"]["recipe"] == "online_ready"
    shown = done("burnin", "--recipe", "linear", "--dry-run")
    assert shown.stderr == "the burnin preset linear is now called step_down\n"
    assert '"recipe": "step_down"' in shown.stdout
    assert done("online", "--preset", "official", "--dry-run").stderr.count("is now called") == 1


def test_a_grid_with_old_names(work: Path) -> None:
    shared = Path("train.toml").read_text().replace("[", "[burnin.")
    grid = f'[burnin]\npreset = "live"\nseeds = [0]\n{shared}\n[online]\npreset = "official"\n[[runs]]\nname = "a"\n'
    Path("grid.toml").write_text(f'{grid}seeds = [0]\n[runs.each]\n"stream.kind" = ["official", "iid"]\n')
    shown = done("sweep", "grid.toml", "--dry-run")
    assert sorted(shown.stderr.splitlines()) == [
        "stream.kind=official is now called released_stream",
        "the burnin preset live is now called online_ready",
        "the online preset official is now called released",
    ]
    assert "logs/grid/a-official-b0-s0" in shown.stdout
    Path("grid.toml").write_text(Path("grid.toml").read_text().replace('["official"', '["released_stream"'))
    assert "logs/grid/a-released-stream-b0-s0" in done("sweep", "grid.toml", "--dry-run").stdout
    Path("logs/grid/a-official-b0-s0").mkdir(parents=True)  # of a sweep made before
    assert "logs/grid/a-official-b0-s0" in done("sweep", "grid.toml", "--dry-run").stdout
