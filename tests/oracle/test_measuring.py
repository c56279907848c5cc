"""Evaluation, batch-norm re-estimation and probes against values worked out another way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from accupoison.attacks.noise import noisy
from accupoison.data import DataSet, Splits
from accupoison.discrepancy import batch_discrepancy
from accupoison.loop.discrepancy_probe import auroc, probe
from accupoison.measure.accuracy import EVALUATION_BATCH, evaluate, monitor, stratified
from accupoison.models.copies import reestimate_batchnorm
from accupoison.models.view import view_of
from accupoison.rng import generator
from tests.messages import refuses
from tests.nets import random_batch, random_net


def data(count: int) -> DataSet:
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(256, (count, 3, 8, 8), generator=rng, dtype=torch.uint8)
    y = torch.randint(10, (count,), generator=rng)
    return DataSet("random", x[:10], y[:10], x[10:], y[10:], tuple("abcdefghij"), flip=True)


def test_evaluate_weighs_every_image_the_same() -> None:
    net, images = random_net(0, torch.float32), data(10 + EVALUATION_BATCH + 7)
    ids = torch.arange(5, images.size)
    accuracy, loss = evaluate(view_of(net), images, ids)
    batch = images.batch(ids)
    with torch.no_grad():
        logits = net(batch.x)
    assert accuracy == pytest.approx(float((logits.argmax(1) == batch.y).double().mean()), abs=1e-12)
    assert loss == pytest.approx(float(F.cross_entropy(logits, batch.y)), rel=1e-5)
    seen: list[Tensor] = []

    def invert(x: Tensor, part: Tensor) -> Tensor:
        seen.append(part)
        return 1 - x

    _, other = evaluate(view_of(net), images, ids, invert)
    with torch.no_grad():
        assert other == pytest.approx(float(F.cross_entropy(net(1 - batch.x), batch.y)), rel=1e-5)
    assert torch.equal(torch.cat(seen), ids)


def test_reestimated_statistics_are_pooled_averages() -> None:
    """Over batches of one size: the mean is that of all images, the variance the mean of the batches' (unbiased)."""
    net = random_net(0)
    batches = [random_batch(seed).x for seed in range(4)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copied = reestimate_batchnorm(net, batches)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m.training for m in (*net.modules(), *copied.modules()))
    for old, new in zip(net.parameters(), copied.parameters(), strict=True):
        assert torch.equal(old, new)
        assert old is not new
    inputs = batches  # layer by layer, each batch normalised with its own statistics on the way
    for module, again in zip(net, copied.children(), strict=True):
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(again, nn.BatchNorm2d)
            mean, var = torch.cat(inputs).mean((0, 2, 3)), torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
            torch.testing.assert_close(again.running_mean, mean, rtol=0, atol=1e-12)
            torch.testing.assert_close(again.running_var, var, rtol=0, atol=1e-12)
            inputs = [F.batch_norm(x, None, None, module.weight, module.bias, training=True) for x in inputs]
        else:
            with torch.no_grad():
                inputs = [module(x) for x in inputs]
    assert float((copied(batches[0]) - net(batches[0])).detach().abs().max()) > 0.01


def test_no_images_no_statistics() -> None:
    for nothing in ([], [random_batch(0).x[:0]]):
        with refuses("re-estimated without images", ValueError):
            reestimate_batchnorm(random_net(0), nothing)


def test_a_network_without_batch_norm_comes_back_equal() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 10)).double()
    batch = random_batch(0)
    assert torch.equal(reestimate_batchnorm(net, [batch.x])(batch.x), net(batch.x))


@pytest.mark.parametrize(
    ("high", "low", "auc"),
    [
        ([2.0, 3.0], [0.0, 1.0], 1.0),
        ([0.0, 1.0], [2.0, 3.0], 0.0),
        ([1.0, 1.0], [1.0, 1.0], 0.5),
        ([1.0, 2.0, 3.0], [0.0, 1.5, 2.5], 6 / 9),
        ([1.0, 2.0], [1.0, 0.0], 3.5 / 4),
    ],
)
def test_auroc(high: list[float], low: list[float], auc: float) -> None:
    assert auroc(torch.tensor(high), torch.tensor(low)) == pytest.approx(auc, abs=1e-12)


def test_auroc_is_the_auc_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.normal(0.5, 1, 40), rng.normal(0, 2, 60)
    expected = roc_auc_score([1] * 40 + [0] * 60, np.concatenate([high, low]))
    assert 0.5 < expected < 1
    assert auroc(torch.from_numpy(high), torch.from_numpy(low)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_auroc_passes_nan_on(bad: float) -> None:
    assert math.isnan(auroc(torch.tensor([1.0, bad]), torch.tensor([0.0, 1.0])))
    assert math.isnan(auroc(torch.tensor([1.0]), torch.tensor([0.0, bad])))


def test_probe() -> None:
    live, early, clean = view_of(random_net(0)), view_of(random_net(1)), random_batch(2)
    sent, seen = clean.with_x((clean.x + 0.1).clamp(0, 1)), clean.with_x(1 - clean.x).rows(slice(0, 4))
    values = probe(live, early, clean, sent, seen, generator(0, "probe"))
    for name, batch in (("clean", clean), ("sent", sent), ("seen", seen)):
        assert values[f"defense/discrepancy_{name}"] == pytest.approx(batch_discrepancy(live, early, batch.x))
    assert values.keys() >= {"defense/discrepancy_auc_clean", "defense/discrepancy_auc_noise"}
    assert 0 <= values["defense/discrepancy_auc_noise"] <= 1
    nothing = probe(live, early, clean, clean, seen.rows(slice(0, 0)), generator(0, "probe"))
    assert nothing.keys() == {"defense/discrepancy_clean", "defense/discrepancy_sent"}


def test_probe_compares_with_noise_of_the_same_size() -> None:
    """Where the sent batch *is* Rademacher noise from the probe's own generator, the two look alike: 0.5."""
    live, early, clean = view_of(random_net(0)), view_of(random_net(1)), random_batch(2)
    clean = clean.with_x((clean.x * 64).round() / 64)  # on a dyadic grid, where adding 1/4 is exact: ties stay ties
    sent = clean.with_x(noisy(clean.x, "rademacher", 0.25, generator(0, "probe")))
    assert float((sent.x - clean.x).abs().max()) == 0.25
    values = probe(live, early, clean, sent, sent, generator(0, "probe"))
    assert values["defense/discrepancy_auc_noise"] == 0.5
    assert values["defense/discrepancy_auc_clean"] != 0.5


def test_a_stratified_accuracy_weighs_classes_as_the_population_does() -> None:
    hits = torch.tensor([1, 1, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    labels, population = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0] * 9 + [1])
    assert stratified(hits, labels, population)[0] == pytest.approx(0.9 * 0.75 + 0.1 * 0)
    assert stratified(hits, labels, torch.tensor([0]))[0] == pytest.approx(0.75)
    assert stratified(hits, labels, torch.tensor([2]))[0] == pytest.approx(3 / 8)  # classes nobody knows


def test_its_interval_is_wilsons_where_strata_say_nothing() -> None:
    hits, labels = torch.tensor([True] * 70 + [False] * 30), torch.zeros(100, dtype=torch.int64)
    wilson = binomtest(70, 100).proportion_ci(0.95, method="wilson")
    assert stratified(hits, labels, labels) == pytest.approx((0.7, wilson.low, wilson.high), abs=1e-3)
    all_right = binomtest(100, 100).proportion_ci(0.95, method="wilson")
    assert stratified(labels == 0, labels, labels) == pytest.approx((1.0, all_right.low, 1.0), abs=1e-6)


@pytest.mark.parametrize(("classes", "each"), [(10, 6), (30, 5), (5, 1)])
def test_its_interval_covers_with_few_images_of_a_class(classes: int, each: int) -> None:
    rng, labels = np.random.default_rng(0), torch.arange(classes).repeat_interleave(each)
    rates = torch.linspace(0.5, 0.95, classes, dtype=torch.float64)
    truth, covered = float(rates.mean()), 0
    for _ in range(600):
        hits = torch.from_numpy(rng.random(len(labels))) < rates[labels]
        _, low, high = stratified(hits, labels, labels)
        covered += low <= truth <= high
    assert covered > 550


def test_the_monitor_weighs_classes_as_the_test_set_does() -> None:
    x = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    images = DataSet("made", x, labels, x[:4], torch.tensor([0, 1, 1, 1]), ("a", "b"), flip=True)
    ids = torch.arange(6)
    parts = Splits(ids, ids, ids, ids, ids, monitor=ids, test=torch.arange(6, 10))
    head = nn.Linear(192, 2)
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, 1.0])  # says class 1 of everything
    net = nn.Sequential(nn.Flatten(), head)
    found = monitor(view_of(net.eval()), images, parts)
    assert found["monitor/acc"] == pytest.approx(0.75)
    assert found["monitor/acc_low"] <= 0.75 <= found["monitor/acc_high"]


def test_its_interval_covers_and_is_narrower_than_a_simple_one() -> None:
    rng = np.random.default_rng(0)
    rates, shares = np.array([0.95, 0.6, 0.2]), np.array([0.5, 0.3, 0.2])
    population = torch.from_numpy(np.repeat(np.arange(3), [500, 300, 200]))
    truth, covered, width, simple = float(rates @ shares), 0, [], []
    for _ in range(1000):
        labels = rng.choice(3, 200, p=shares)
        hits = rng.random(200) < rates[labels]
        _, low, high = stratified(torch.from_numpy(hits), torch.from_numpy(labels), population)
        covered += low <= truth <= high
        width.append(high - low)
        plain = binomtest(int(hits.sum()), 200).proportion_ci(0.95, method="wilson")
        simple.append(plain.high - plain.low)
    assert covered > 930
    assert np.mean(width) < 0.85 * np.mean(simple)
