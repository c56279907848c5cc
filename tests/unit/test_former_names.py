"""What runs of before have saved under other names."""

from pathlib import Path

import torch

from accupoison.attacks import Direct
from accupoison.config.schema import EvaluateSettings, StopSettings
from accupoison.data import split
from accupoison.measure.evaluator import Evaluator
from accupoison.records.recorder import metrics_digest, read_metrics
from tests.simulations import SIZES, data, simulation


def test_an_attack_goes_on() -> None:
    attack = Direct()
    attack.restore({"places": torch.arange(3), "target": torch.ones(2), "start_loss": 0.5}, simulation().access)
    assert attack.fixed_rows is not None
    assert attack.fixed_rows.tolist() == [0, 1, 2]
    assert attack.crafted is not None
    assert attack.crafted.tolist() == [1, 1]
    assert not {"places", "target"} & vars(attack).keys()


def test_an_evaluator_goes_on() -> None:
    evaluator = Evaluator(simulation(), data(), split(data(), sizes=SIZES), EvaluateSettings(), StopSettings())
    marks, sums = {"start": {"acc": 0.5}}, {"optim/grad_norm": 6.0}
    old = {
        "steps": 4,
        "trunk_steps": 3,
        "_marks": marks,
        "_sums": sums,
        "_counts": {"optim/grad_norm": 3},
        "_digest": "d",
    }
    evaluator.restore({**old, "latest": 0.25})
    assert evaluator.summary.shared_steps == 3
    assert evaluator.results() == {
        "start": {"acc": 0.5},
        "branches": {},
        "means": {"optim/grad_norm": 2.0},
        "clean_ids": "d",
        "test_images": 10,
    }
    assert evaluator.latest == "accuracy 25.0%"


def test_metrics_are_read_and_held_to_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = {"step": 1, "branch": "", "test/acc": 0.5, "optim/drift": 1.0, "time/step_s": 2.0}
    path.write_text('{"step": 1, "branch": "", "test/acc": 0.5, "optim/drift": 1.0, "time/step_s": 2.0}\n')
    (read,) = read_metrics(path, metrics_digest([row]))
    assert (read["test/acc"], read["optim/distance_from_start"]) == (0.5, 1.0)
    assert "optim/drift" not in read
