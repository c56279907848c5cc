"""Burn-in and poisoned streams on the other real data sets, small."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from accupoison.cli import cli
from accupoison.records.ledger import Ledger
from tests.e2e.conftest import cut_down

DATA = Path(os.environ.get("ACCUPOISON_DATA", "data")).resolve()
SIZES = {"burnin": 1000, "stream": 400, "trigger": 50, "val": 100, "trusted": 300, "monitor": 100}
SETTINGS = ["--epochs", "4", "--set", "train.batch_size=25", "--set", "train.last_batch_size=25"]
STREAM = ["--steps", "2", "--recovery-steps", "0", "--set", "stream.batch_size=50", "--set", "attack.steps=2"]

pytestmark = pytest.mark.data


def run(command: str, data: str, model: str, *options: str) -> dict[str, object]:
    sizes = [part for name, count in SIZES.items() for part in ("--set", f"data.{name}={count}")]
    common = ["--data", data, "--data-dir", "data", "--model", model, "--width", "16", "--offline", "--json"]
    result = CliRunner().invoke(cli, [command, *common, *sizes, *options])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("data", "file", "model", "chance"),
    [
        ("cifar100", "cifar100.npz", "convnet", 0.01),
        ("mnist", "mnist.npz", "convnet", 0.1),
        ("npz:tiny_imagenet20.npz", "tiny_imagenet20.npz", "convnet", 0.05),
        ("location30", "location30.npz", "mlp", 1 / 30),
    ],
)
def test_a_burn_in_learns_and_streams_run(
    data: str, file: str, model: str, chance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"{file} is not in the directory that ACCUPOISON_DATA names")
    monkeypatch.chdir(tmp_path)
    if data == "location30":  # small as it is, and without a division to cut
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / file).symlink_to(DATA / file)
    else:
        cut_down(DATA / file, tmp_path / "data" / file, 4000, 2000)
    burnin = run("burnin", data, model, *SETTINGS)
    assert float(str(burnin["test_acc"])) > 2 * chance
    for med in ("ST", "OURS"):
        found = run("online", data, model, *STREAM, "--med", med, "--set", "evaluate.reestimate=false")
        assert found["status"] == "finished"
        assert float(found["means"]["optim/grad_norm"]) > 0  # type: ignore[index]
        rows = Ledger.load(Path(str(found["run"])) / "ledger.npz").rows
        assert rows["changed"].mean() > 0.9
