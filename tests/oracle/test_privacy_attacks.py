"""What the privacy attacks plan and make, held to what their papers say."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from accupoison.attacks import ATTACKS
from accupoison.attacks.clean_label import CleanLabel
from accupoison.attacks.dirty_label import DirtyLabel
from accupoison.attacks.planned import PlannedAttack
from accupoison.attacks.targeted import Targeted
from accupoison.attacks.twins import twins_of
from accupoison.data.fabricated import source_ids
from accupoison.models.view import view_of
from accupoison.testing.bench import Bench, BenchContext
from accupoison.types import Access, Batch, ModelView, Population
from tests.messages import refuses
from tests.nets import random_net

CLASSES, STEPS, ROWS = 7, 12, 50


def samples(ids: Tensor) -> Batch:
    """Return images whose pixels and labels tell their ids."""
    x = torch.stack([torch.full((3, 8, 8), int(i % 256) / 255) for i in ids]) if len(ids) else torch.zeros(0, 3, 8, 8)
    return Batch(x, ids % CLASSES, ids)


def people(steps: int = STEPS, classes: int = CLASSES) -> Population:
    coming = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[: steps * ROWS]
    return Population(
        steps=tuple(coming.view(steps, ROWS)),
        candidates=torch.arange(2000),
        total=steps * ROWS,
        size=2000,
        num_classes=classes,
        labels=lambda ids: ids % classes,
        raw=samples,
        model=lambda path: Bench.make().reference,
    )


def ready(attack: PlannedAttack, population: Population | None = None, view: ModelView | None = None) -> PlannedAttack:
    bench = Bench.make()
    val = samples(torch.arange(1900, 2000))
    access = Access(val, val, crafted=False, reoptimise=False, population=population or people())
    attack.setup(view or bench.learner.view(), access, BenchContext("attack-setup", 0))
    return attack


def sent(attack: PlannedAttack, view: ModelView | None = None) -> list[Batch]:
    view = view or Bench.make().learner.view()
    batches = [samples(ids) for ids in attack.population.steps]
    return [attack.poison(view, batch, BenchContext("attack", t)) for t, batch in enumerate(batches)]


@pytest.mark.parametrize(("label", "ratio"), [(0, 0.02), (3, 0.1), (None, 0.5)])
def test_dirty_label_changes_so_many_labels_of_the_class(label: int | None, ratio: float) -> None:
    batches = sent(ready(DirtyLabel(target_class=label, ratio=ratio)))
    y, ids = torch.cat([batch.y for batch in batches]), torch.cat([batch.ids for batch in batches])
    wrong = y != ids % CLASSES
    assert int(wrong.sum()) == round(ratio * STEPS * ROWS)
    assert label is None or bool((ids[wrong] % CLASSES == label).all())
    assert len(y) == STEPS * ROWS
    if label is None:  # every other label, about as often
        shifts = torch.bincount((y[wrong] - ids[wrong]) % CLASSES, minlength=CLASSES)
        assert shifts[0] == 0
        assert int(shifts[1:].min()) > 25


def test_labels_reach_every_class_however_many_there_are() -> None:
    attack = ready(DirtyLabel(target_class=None, ratio=1.0), people(classes=200))
    assert int(attack.changed_y.max()) > 150
    assert bool((attack.changed_y != attack.changed_ids % 200).all())


def test_who_is_poisoned_does_not_depend_on_who_else_comes() -> None:
    whole = ready(DirtyLabel(target_class=None, ratio=0.2))
    fewer = ready(DirtyLabel(target_class=None, ratio=0.2), people(steps=6))
    both = fewer.changed_ids[torch.isin(fewer.changed_ids, whole.changed_ids)]
    assert len(both) > 0.6 * len(fewer.changed_ids)
    labels = dict(zip(whole.changed_ids.tolist(), whole.changed_y.tolist(), strict=True))
    given = dict(zip(fewer.changed_ids.tolist(), fewer.changed_y.tolist(), strict=True))
    assert all(labels[i] == given[i] for i in both.tolist())
    other = ready(DirtyLabel(target_class=None, ratio=0.2, seed=1))
    assert not torch.equal(other.changed_ids, whole.changed_ids)


def test_dirty_label_of_its_own_keeps_a_balance() -> None:
    attack = ready(DirtyLabel(target_class=2, ratio=0.1, source="own", balance=0.25))
    sources = source_ids(attack.own_ids)
    assert len(sources) == 60
    assert bool((sources % CLASSES == 2).all())
    assert int(sources.min()) >= 1900
    assert int((attack.own_y == 2).sum()) == 15
    assert len(set(attack.own_ids.tolist())) == 60
    assert len(attack.changed_ids) == 0


def test_too_few_of_the_class_are_said() -> None:
    with refuses("attack.ratio 0.5 600 300 class 0 86 at most 0.143"):
        ready(DirtyLabel(target_class=0, ratio=0.5))
    with refuses("attack.target_class 9 7 classes 0 to 6"):
        ready(DirtyLabel(target_class=9))
    with refuses("attack.count 3000 2000 fewer"):
        ready(Targeted(count=3000))
    with refuses("attack.rate 1 16 rows 12 steps raise"):
        ready(Targeted(count=8, copies=2, rate=1))


@pytest.mark.parametrize("placement", ["any", "before", "after"])
def test_copies_come_where_they_are_placed(placement: str) -> None:
    attack = ready(Targeted(count=60, copies=3, placement=placement))
    assert isinstance(attack, Targeted)
    batches = sent(attack)
    own = [batch.rows(slice(ROWS, None)) for batch in batches]
    assert sum(map(len, own)) == 180
    arrival = {int(i): t for t, ids in enumerate(attack.population.steps) for i in ids}
    labels: dict[int, set[int]] = {}
    for t, rows in enumerate(own):
        assert torch.equal(rows.x, samples(source_ids(rows.ids)).x)
        for i, y in zip(source_ids(rows.ids).tolist(), rows.y.tolist(), strict=True):
            labels.setdefault(i, set()).add(y)
            s = arrival.get(i)
            if s is not None and placement == "before":
                assert t < s or s == 0
            if s is not None and placement == "after":
                assert t > s or s == STEPS - 1
    assert len(labels) == 60
    assert all(len(given) == 1 and i % CLASSES not in given for i, given in labels.items())  # one wrong label each
    inside = sum(i in arrival for i in labels)
    assert 5 < inside < 40  # whether a target comes is not the attacker's choice


def test_a_rate_bounds_the_rows_of_a_batch() -> None:
    batches = sent(ready(Targeted(count=20, copies=3, rate=5)))
    assert [len(batch) - ROWS for batch in batches] == [5] * STEPS
    free = sent(ready(Targeted(count=20, copies=3, rate=8, placement="before")))
    assert max(len(batch) - ROWS for batch in free) <= 8
    assert sum(len(batch) - ROWS for batch in free) == 60


def test_adaptive_copies_end_where_the_model_is_no_longer_sure() -> None:
    unsure = view_of(random_net(0, torch.float32))  # of ten classes, hardly above a tenth for any
    loud = ready(Targeted(count=30, copies=4, adaptive=True, confidence=0.0), view=unsure)
    quiet = ready(Targeted(count=30, copies=4, adaptive=True, confidence=1.0), view=unsure)
    assert sum(len(batch) - ROWS for batch in sent(loud, unsure)) == 120
    assert sum(len(batch) - ROWS for batch in sent(quiet, unsure)) == 0
    middle = ready(Targeted(count=30, copies=4, adaptive=True, confidence=0.1), view=unsure)
    for batch in sent(middle, unsure):
        rows = samples(source_ids(batch.ids[ROWS:]))
        assert bool((unsure.logits(rows.x).softmax(1).gather(1, rows.y[:, None]) > 0.1).all())


def test_rehearsals_add_copies_until_out_models_are_unsure() -> None:
    asked: list[tuple[int, int]] = []

    def rehearse(without: Tensor, ids: Tensor, labels: Tensor, number: int) -> ModelView:
        assert len(without) == 10
        asked.append((len(ids), number))
        sure = torch.tensor(0.0 if len(ids) >= 20 else 100.0)  # two copies of each of the ten suffice

        class Net(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = torch.nn.Parameter(sure)

            def forward(self, x: Tensor) -> Tensor:
                label = (x[:, 0, 0, 0] * 255).round().long()
                return self.scale * torch.nn.functional.one_hot(label % CLASSES, CLASSES)

        return view_of(Net().eval())

    population = replace(people(steps=1), candidates=torch.arange(10), rehearse=rehearse)
    attack = ready(Targeted(count=10, copies=8, adaptive=True, confidence=0.5, out_models=2), population)
    assert asked == [(n, m) for n in (0, 10, 20) for m in (0, 1)] + [(20, m) for _ in range(3) for m in (0, 1)]
    assert len(attack.own_ids) == 20


def test_clean_label_moves_features_onto_those_of_the_class() -> None:
    bench = Bench.make()
    access = Access(
        bench.val, bench.trigger, crafted=False, reoptimise=False, population=replace(bench.population, num_classes=4)
    )
    label = int(bench.val.y[0])
    made = {}
    for iterations in (0, 60):
        attack = CleanLabel(target_class=label, ratio=0.5, eps=0.1, iterations=iterations)
        attack.setup(bench.learner.view(), access, BenchContext("attack-setup", 0))
        made[iterations] = attack
    crafted, plain = made[60], made[0]
    assert torch.equal(crafted.own_ids, plain.own_ids)
    assert bool((crafted.own_y != label).all())  # seeds of other classes, rightly labelled
    every = torch.arange(len(crafted.own_ids))
    seeds, images = bench.population.raw(source_ids(crafted.own_ids)), crafted.own_x(every)
    assert torch.equal(crafted.own_y, seeds.y)
    assert torch.equal(plain.own_x(every), seeds.x)
    assert 0 < float((images - seeds.x).abs().max()) <= 0.1 + 1e-6
    bases = bench.val.x[bench.val.y == label]
    with torch.no_grad():
        far, near = (
            torch.cdist(bench.learner.view().features(x), bench.learner.view().features(bases)).min(1).values.mean()
            for x in (seeds.x, images)
        )
    assert float(near) < 0.7 * float(far)


def test_twins_are_made_of_the_bytes_alone() -> None:
    x = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float() / 255
    twins = twins_of(x, mean=0.5, std=0.1)
    assert torch.equal(twins, twins_of(x.flip(0), mean=0.5, std=0.1).flip(0))  # whoever comes with it
    changed = x.clone()
    changed[0, 0, 0, 0] = (changed[0, 0, 0, 0] + 1 / 255) % 1  # one level of one pixel
    assert float((twins_of(changed, mean=0.5, std=0.1)[0] - twins[0]).abs().mean()) > 0.05
    assert torch.equal(twins_of(changed, mean=0.5, std=0.1)[1:], twins[1:])
    assert abs(float(twins.mean()) - 0.5) < 0.01
    assert abs(float(twins.std()) - 0.1) < 0.01
    assert len({twin.numpy().tobytes() for twin in twins}) == 40


def test_a_backdoor_stamps_a_corner() -> None:
    attack = ready(ATTACKS.build("backdoor", {"target_class": 1, "ratio": 0.1, "patch": 3}))  # type: ignore[arg-type]
    poisoned = 0
    for batch in sent(attack):
        clean = samples(batch.ids)
        wrong = batch.y != clean.y
        poisoned += int(wrong.sum())
        assert bool((batch.y[wrong] == 1).all())
        same = (batch.x == clean.x).all(1)
        assert bool(same[~wrong].all())
        assert bool(same[wrong][:, :5, :].all())
        assert bool(same[wrong][:, :, :5].all())
        assert bool((batch.x[wrong][:, :, 5:, 5:] == torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])).all())
    assert poisoned == 60
