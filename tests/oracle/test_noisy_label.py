"""Noisy-label learning against formulas by hand, mixtures of known components, and labels known to be wrong."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from accupoison.defenses import DEFENSES, Defense
from accupoison.defenses.gaussian_mixture import fit_gaussian_mixture, fit_margin_mixture, group_separation
from accupoison.defenses.mixup import balance
from accupoison.defenses.noise_tracking import MIXTURES, NoiseTracking
from accupoison.defenses.noisy_label import BetaMixture, DynamicBootstrap, fit_beta_mixture
from accupoison.errors import InputError
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.view import view_of
from accupoison.testing.bench import same
from accupoison.types import Batch
from accupoison.updates import SGD

FEATURES, CLASSES = 6, 3
NUMPY = np.random.Generator
ONE_GROUP: dict[str, Callable[[NUMPY], Any]] = {
    "well fitted": lambda rng: rng.exponential(0.05, 3000),
    "barely fitted": lambda rng: rng.exponential(1.0, 3000),
    "very well fitted": lambda rng: np.exp(rng.normal(-7, 3, 3000)),
    "not trained": lambda rng: rng.normal(2.3, 0.1, 3000),
    "hard and easy": lambda rng: rng.gamma(2, 0.5, 3000),
}


def context(t: int = 0, share: float = 0.0, epoch_size: int | None = None) -> StepContext:
    return StepContext(0, "defense", t, {}, share=share, epoch_size=epoch_size)


def network(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Linear:
    model = nn.Linear(FEATURES, CLASSES).to(dtype).eval()
    with torch.no_grad():
        rng = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.copy_(3 * torch.randn(p.shape, generator=rng))
    return model


def some(count: int, seed: int = 0, first: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(count, FEATURES, generator=rng, dtype=torch.float64)
    return Batch(x, torch.randint(CLASSES, (count,), generator=rng), first + torch.arange(count))


def losses_of(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y, reduction="none").detach()


def build(name: str, **settings: object) -> NoiseTracking:
    defense = DEFENSES.build(name, {"min_samples": 2, "min_separation": 0.0, "reg_term": 0.0, **settings})
    assert isinstance(defense, NoiseTracking)
    return defense


def separation(loss: Tensor | np.ndarray) -> float:
    return fit_margin_mixture(torch.as_tensor(loss), 0).separation


def wrong(labels: Tensor, share: float, classes: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(9)
    flipped = torch.rand(len(labels), generator=rng) < share
    other = (labels + torch.randint(1, classes, labels.shape, generator=rng)) % classes
    return torch.where(flipped, other, labels), flipped


def test_known_components_are_found() -> None:
    """Losses are 5 times Beta(2, 16) for correct and Beta(12, 4) for the 30% of wrong labels, so B is known."""
    rng = np.random.default_rng(0)
    noisy = rng.random(20_000) < 0.3
    loss = 5 * np.where(noisy, rng.beta(12, 4, 20_000), rng.beta(2, 16, 20_000))
    clean, dirty = 0.7 * beta(2, 16).pdf(loss / 5), 0.3 * beta(12, 4).pdf(loss / 5)
    mixture = fit_beta_mixture(loss)
    for found in (mixture.posterior(loss), mixture.lookup(loss)):
        assert float(np.abs(found.numpy() - dirty / (clean + dirty)).mean()) < 0.02
        assert float(found.mean()) == pytest.approx(0.3, abs=0.02)
    assert separation(loss) > 2


def few_wrong(margin: float, scale: float, share: float) -> tuple[Tensor, Tensor]:
    """Return the losses of a network that knows ten classes by ``margin`` deviations, and which labels are wrong."""
    rng = torch.Generator().manual_seed(1)
    truth = torch.randint(10, (5000,), generator=rng)
    logits = scale * (torch.randn(5000, 10, generator=rng, dtype=torch.float64) + margin * F.one_hot(truth, 10))
    labels, flipped = wrong(truth, share, 10)
    return F.cross_entropy(logits, labels, reduction="none"), flipped


@pytest.mark.parametrize(("margin", "scale"), [(4, 1), (6, 1), (4, 2), (6, 2), (6, 4)])
def test_the_margin_mixture_tells_the_noise_rate(margin: float, scale: float) -> None:
    for share in (0.05, 0.2, 0.5):
        losses, flipped = few_wrong(margin, scale, share)
        mixture = fit_margin_mixture(losses, 0)
        noise = mixture.noise(losses, losses)
        assert mixture.separation > 3.5
        assert float(noise.mean()) == pytest.approx(float(flipped.double().mean()), abs=0.015)
        assert roc_auc_score(flipped, noise) > 0.995
        ladder = mixture.noise(torch.linspace(0, 40, 500), losses)
        assert bool((ladder.diff() >= 0).all())
        assert same(type(mixture).unpack(mixture.pack()).noise(losses, losses), noise)
    losses, _ = few_wrong(margin, scale, 0.0)
    assert fit_margin_mixture(losses, 0).separation < 1.7


def test_the_smallest_losses_are_not_called_wrong() -> None:
    """Component 1 may rise toward a loss of 0; the table of the released code would then be at its maximum there."""
    mixture = BetaMixture(
        alphas=torch.tensor([2.0, 0.5]).double(),
        betas=torch.tensor([12.0, 0.5]).double(),
        weights=torch.tensor([0.9, 0.1]).double(),
        low=0.0,
        span=4.0,
    )
    smallest = torch.tensor([0.0])
    assert float(mixture.posterior(smallest)) > 0.5 > float(mixture.lookup(smallest))
    assert bool((mixture.lookup(torch.linspace(0, 10, 500)).diff() >= 0).all())
    assert float(mixture.lookup(torch.tensor([4.0]))) > 0.99


def test_the_largest_losses_are_not_called_correct() -> None:
    mixture = fit_beta_mixture(np.random.default_rng(0).beta([[1.0], [8.0]], [[1.5], [9.0]], (2, 500)).ravel())
    assert mixture.betas[1] > mixture.betas[0]
    ladder = torch.linspace(0, 2, 300)
    assert bool((mixture.posterior(ladder).diff() < 0).any())
    assert bool((mixture.lookup(ladder).diff() >= 0).all())


def test_narrow_components_do_not_underflow() -> None:
    """Densities of such components are beyond what exp can hold, either way."""
    mixture = BetaMixture(
        alphas=torch.tensor([2e4, 8e4]).double(),
        betas=torch.tensor([8e4, 2e4]).double(),
        weights=torch.tensor([0.5, 0.5]).double(),
        low=0.0,
        span=1.0,
    )
    places = torch.tensor([0.0, 0.2, 0.8, 1.0])
    assert mixture.posterior(places).tolist() == pytest.approx([0, 0, 1, 0])  # no density counts at the ends: 1e-12
    assert mixture.lookup(places).tolist() == pytest.approx([0, 0, 1, 1])
    rng = np.random.default_rng(0)
    narrow = fit_beta_mixture(np.concatenate([rng.normal(1, 1e-4, 1500), rng.normal(9, 1e-4, 500)]))
    assert bool(torch.cat([narrow.alphas, narrow.betas, narrow.lookup(places)]).isfinite().all())


@pytest.mark.parametrize("loss", [[], [1.0], [2.0] * 50, [math.nan] * 3, [math.inf, 1.0]])
def test_no_components(loss: list[float]) -> None:
    mixture = fit_beta_mixture(loss)
    assert not mixture.lookup([*loss, 0.5, math.nan]).any()
    assert not mixture.posterior([*loss, 0.5, math.nan]).any()


@pytest.mark.parametrize("name", ONE_GROUP)
def test_one_group_is_seen_as_one(name: str) -> None:
    """The beta mixture splits clean losses all the same, so that B alone would accuse many."""
    loss = ONE_GROUP[name](np.random.default_rng(1))
    assert float((fit_beta_mixture(loss).lookup(loss) > 0.5).double().mean()) > 0.05
    assert separation(loss) < 1.7


def test_few_wrong_labels_are_seen_and_single_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    clean = np.exp(rng.normal(-5, 2, 5000))
    for count, seen in ((250, True), (20, False)):
        loss = np.concatenate([clean, rng.normal(8, 1, count)])
        assert (separation(loss) > 2) is seen


def test_gaussian_mixture_of_features() -> None:
    rng = torch.Generator().manual_seed(0)
    noisy = torch.rand(500, generator=rng) < 0.25
    features = torch.randn(500, 4, generator=rng) + 6 * noisy[:, None]
    losses = torch.where(noisy, 4.0, 0.2) + 0.1 * torch.rand(500, generator=rng)
    mixture = fit_gaussian_mixture(losses, features, 0)
    noise = mixture.noise(losses, features)
    assert bool(((noise > 0.5) == noisy).all())
    assert group_separation(losses, noise) > 2
    swapped = fit_gaussian_mixture(-losses, features, 0)
    torch.testing.assert_close(swapped.noise(losses, features), 1 - noise)
    assert group_separation(losses, 1 - noise) < 0
    again = type(mixture).unpack(mixture.pack())
    assert same(again.noise(losses, features), noise)


def test_balance_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    mean = logits.softmax(1).mean(0)
    by_hand = sum(float(math.log(1 / 3 / h) / 3) for h in mean)
    assert float(balance(logits)) == pytest.approx(by_hand, rel=1e-12)
    assert float(balance(torch.zeros(4, 7))) == pytest.approx(0.0, abs=1e-6)


def test_mixup_by_hand() -> None:
    model, batch = network(), some(5)
    defense = DEFENSES.build("MIXUP", {})
    seen = defense.intercept(view_of(model), batch, context())
    lam, x, y = float(seen.extra["lambda"][0]), batch.x, batch.y
    (partner,) = [p for p in _permutations(5) if torch.allclose(lam * x + (1 - lam) * x[p], seen.x, atol=1e-12)]
    logits = model(seen.x)
    ce = [F.cross_entropy(logits, labels, reduction="none") for labels in (y, y[partner])]
    torch.testing.assert_close(defense.losses(model, seen), lam * ce[0] + (1 - lam) * ce[1])
    assert same([seen.y, seen.ids], [y, batch.ids])
    assert not seen.extra["noise"].any()
    draws = [float(_mixed("MIXUP", batch, t).extra["lambda"][0]) for t in range(400)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.01)
    assert np.std(draws) == pytest.approx(math.sqrt(1 / 4 / 65), rel=0.15)


def test_the_balance_counts_only_where_guesses_do() -> None:
    model, batch = network(), some(40)
    for name, warm in (
        ("NLL-STATIC", {"warmup_epochs": 1}),
        ("NLL-DYNAMIC", {"warmup_epochs": 0, "dynamic_epochs": 1}),
    ):
        with_term, without = (build(name, reg_term=eta, **warm) for eta in (0.7, 0.0))
        seen = with_term.intercept(view_of(model), batch, context(epoch_size=50))
        assert "guess" not in seen.extra
        assert same(with_term.losses(model, seen), without.losses(model, seen))


def _mixed(name: str, batch: Batch, t: int) -> Batch:
    return DEFENSES.build(name, {}).intercept(view_of(network()), batch, context(t))


def _permutations(count: int) -> list[Tensor]:
    return [torch.tensor(p) for p in permutations(range(count))]


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_static_by_hand(target: str) -> None:
    model, batch = network(), some(40)
    defense = build("NLL-STATIC", target=target, reg_term=0.3)
    seen = defense.intercept(view_of(model), batch, context())
    noise = fit_beta_mixture(losses_of(model, batch)).lookup(losses_of(model, batch)).clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(seen.extra["noise"], noise)
    assert 0.05 < float((noise > 0.5).double().mean()) < 0.95
    z, logits, lam = model(batch.x).detach(), model(seen.x), float(seen.extra["lambda"][0])
    partner = _partner(batch, seen, torch.full((40,), lam, dtype=torch.float64))
    log = logits.log_softmax(1)
    own = -log.gather(1, z.argmax(1, keepdim=True))[:, 0] if target == "hard" else -(z.softmax(1) * log).sum(1)
    theirs = -log.gather(1, z[partner].argmax(1, keepdim=True))[:, 0]
    if target == "soft":
        theirs = -(z[partner].softmax(1) * log).sum(1)
    b_p, b_q = noise, noise[partner]
    label_p, label_q = (F.cross_entropy(logits, y, reduction="none") for y in (batch.y, batch.y[partner]))
    expected = lam * ((1 - b_p) * label_p + b_p * own) + (1 - lam) * ((1 - b_q) * label_q + b_q * theirs)
    torch.testing.assert_close(defense.losses(model, seen), expected + 0.3 * balance(logits))


def _partner(batch: Batch, seen: Batch, weight: Tensor) -> Tensor:
    """Find each row's partner by the image that it was mixed with; ``weight`` [B] or [B, B]: own, per candidate."""
    weight = weight[:, None].expand(-1, len(batch)) if weight.ndim == 1 else weight
    candidates = weight[..., None] * batch.x[:, None] + (1 - weight[..., None]) * batch.x[None]
    distance = (candidates - seen.x[:, None]).abs().amax(2)
    assert float(distance.min(1).values.max()) < 1e-9
    return distance.argmin(1)


@pytest.mark.parametrize("share", [0.25, 0.625, 1.0])
def test_dynamic_by_hand(share: float) -> None:
    model, batch = network(), some(40)
    defense = build("NLL-DYNAMIC")
    assert isinstance(defense, DynamicBootstrap)
    defense.soft_from = 0.25
    seen = defense.intercept(view_of(model), batch, context(share=share))
    noise = seen.extra["noise"]
    delta = 1 - noise
    partner = _partner(batch, seen, delta[:, None] / (delta[:, None] + delta[None]))
    temperature = {0.25: 1.0, 0.625: 0.5005, 1.0: 0.001}[share]
    soft, log = (model(batch.x) / temperature).softmax(1).detach(), model(seen.x).log_softmax(1)

    def half(rows: Tensor) -> Tensor:
        label: Tensor = -log.gather(1, batch.y[rows, None])[:, 0]
        guessed: Tensor = -(soft[rows] * log).sum(1)
        return (1 - noise[rows]) * label + noise[rows] * guessed

    torch.testing.assert_close(defense.losses(model, seen), 0.5 * half(torch.arange(40)) + 0.5 * half(partner))
    assert float(noise.max()) > 0.5


def test_dynamic_mixup_has_plain_labels() -> None:
    model, batch = network(), some(40)
    defense = build("NLL-DYNAMIC", dynamic_epochs=1)
    seen = defense.intercept(view_of(model), batch, context(epoch_size=50))
    assert same(seen.extra["noise"], torch.full((40,), 0.5, dtype=torch.float64))  # nothing is fitted yet
    partner = _partner(batch, seen, torch.full((40,), 0.5, dtype=torch.float64))
    logits, lam = model(seen.x), float(seen.extra["lambda"][0])
    ce = [F.cross_entropy(logits, y, reduction="none") for y in (batch.y, batch.y[partner])]
    torch.testing.assert_close(defense.losses(model, seen), lam * ce[0] + (1 - lam) * ce[1])
    assert lam != 0.5


@pytest.mark.parametrize("name", ["NLL-STATIC", "NLL-DYNAMIC"])
def test_without_mixing_rows_are_their_own(name: str) -> None:
    model, batch = network(), some(20)
    defense = build(name, alpha=0.0)
    seen = defense.intercept(view_of(model), batch, context())
    noise, logits = seen.extra["noise"], model(batch.x)
    guess = logits.argmax(1) if name == "NLL-STATIC" else logits.softmax(1)
    expected = (1 - noise) * F.cross_entropy(logits, batch.y, reduction="none")
    torch.testing.assert_close(
        defense.losses(model, seen), expected + noise * F.cross_entropy(logits, guess.detach(), reduction="none")
    )
    assert same(seen.x, batch.x)


def test_phases() -> None:
    view = view_of(network())
    static = build("NLL-STATIC")
    for share, guesses in ((0.0, False), (0.34, False), (0.36, True)):
        assert ("guess" in static.intercept(view, some(10), context(share=share, epoch_size=20)).extra) is guesses
    assert "guess" in build("NLL-STATIC").intercept(view, some(10), context()).extra  # a stream has no warm-up
    dynamic = build("NLL-DYNAMIC", warmup_epochs=1, dynamic_epochs=1, window=10)
    for t, (guesses, even) in enumerate([(False, False), (False, False), (True, True)]):
        seen = dynamic.intercept(view, some(10), context(t))
        assert ("guess" in seen.extra) is guesses
        assert (float(seen.extra["lambda"][0]) == 0.5) is even


def test_training_fits_once_a_pass_and_a_stream_at_every_step() -> None:
    view = view_of(network())
    training, stream, rare = build("NLL-STATIC"), build("NLL-STATIC", min_samples=25), build("NLL-STATIC", refit=3)
    fits = []
    for t in range(6):
        batch = some(10, t, 10 * (t % 3))
        training.intercept(view, batch, context(t, epoch_size=30))
        stream.intercept(view, batch, context(t))
        rare.intercept(view, batch, context(t, epoch_size=30))
        fits.append((training.fits, stream.fits, rare.fits))
    assert fits == [(0, 0, 0), (0, 0, 0), (1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 4, 2)]
    ids, noise = training.suspects() or (None, None)
    assert ids is not None
    assert noise is not None
    assert sorted(ids.tolist()) == list(range(30))
    assert float(noise.mean()) == pytest.approx(training.noise_rate)


def test_window_slides() -> None:
    model = network()
    defense = build("NLL-STATIC", window=6)
    view = view_of(model)
    newer = some(4, 7, 2)
    twice = Batch(newer.x, newer.y, torch.tensor([9, 2, 9, 3]))
    for batch in (some(4), newer, twice):
        defense.intercept(view, batch, context())
    assert defense.ids is not None
    held = dict(zip(defense.ids.tolist(), defense.held_losses.tolist(), strict=True))
    fresh = losses_of(model, newer)
    # 2 and 3 were renewed twice, 4 and 5 came after 0 and 1, of which the older one had to go for 9
    assert held.keys() == {1, 2, 3, 4, 5, 9}
    assert held[4] == pytest.approx(float(fresh[2]))
    assert [held[9], held[2], held[3]] == pytest.approx([float(fresh[2]), float(fresh[1]), float(fresh[3])])
    defense.intercept(view, some(20, 3, 100), context())
    assert sorted(defense.ids.tolist()) == list(range(114, 120))


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", ["NLL-STATIC", "NLL-DYNAMIC"])
def test_a_broken_model_and_no_rows(name: str, mixture: str) -> None:
    model = network()
    defense = build(name, mixture=mixture)
    for count in (0, 1, 5):
        seen = defense.intercept(view_of(model), some(count), context())
        assert len(seen.extra["noise"]) == count
        assert defense.losses(model, seen).shape == (count,)
    with torch.no_grad():
        model.weight.fill_(math.nan)
    broken = defense.intercept(view_of(model), some(8, 1), context(1))
    assert not broken.extra["noise"].any()
    found = defense.suspects()
    assert found is not None
    assert bool(found[1].isfinite().all())


def test_what_does_not_separate_is_believed() -> None:
    model, metrics = network(), dict[str, float]()
    defense = DEFENSES.build("NLL-STATIC", {"min_samples": 200})
    batch = some(300)
    right = replace(batch, y=model(batch.x).argmax(1))
    losses = losses_of(model, right)
    assert float((fit_beta_mixture(losses).lookup(losses) > 0.5).double().mean()) > 0.1  # the mixture alone accuses
    seen = defense.intercept(view_of(model), right, StepContext(0, "defense", 0, metrics))
    assert not seen.extra["noise"].any()
    assert 0 <= metrics["defense/mixture_separation"] < 2
    assert metrics["defense/noise_rate"] == 0


def test_one_class_for_all_is_no_wrong_label() -> None:
    """A model that has collapsed has two clear groups of losses: its class, and the other six sevenths."""
    model = nn.Linear(FEATURES, 7).eval()
    with torch.no_grad():
        model.weight.mul_(0.1)
        model.bias.zero_()[2] = 5.0
    x = torch.rand(700, FEATURES, generator=torch.Generator().manual_seed(0))
    batch = Batch(x, torch.arange(700) % 7, torch.arange(700))
    assert separation(losses_of(model, batch)) > 10
    for mixture in MIXTURES:
        defense = DEFENSES.build("NLL-STATIC", {"mixture": mixture})
        assert not defense.intercept(view_of(model), batch, context()).extra["noise"].any()


@pytest.mark.parametrize("name", ["NLL-STATIC", "NLL-DYNAMIC"])
def test_training_resumes_bit_for_bit(name: str) -> None:
    view = view_of(network())

    def go_on(defense: NoiseTracking, first: int, last: int) -> list[Batch]:
        return [defense.intercept(view, some(10, t, 10 * (t % 3)), context(t, t / 12, 30)) for t in range(first, last)]

    whole, half = (build(name, warmup_epochs=1) for _ in range(2))
    expected = go_on(whole, 0, 12)
    begun = go_on(half, 0, 7)
    fresh = half.fresh()
    fresh.restore(half.state(), None)
    assert same(begun + go_on(fresh, 7, 12), expected)
    assert same(list(fresh.suspects() or []), list(whole.suspects() or []))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("NLL-STATIC", {"target": "hard"}),
        ("NLL-STATIC", {"target": "soft", "mixture": "margin"}),
        ("NLL-DYNAMIC", {}),
        ("NLL-DYNAMIC", {"mixture": "margin"}),
    ],
)
def test_wrong_labels_are_found(name: str, settings: dict[str, Any]) -> None:
    """A small network on seven classes with 20% wrong labels: B tells which, and accuracy gains on plain training."""
    rng = torch.Generator().manual_seed(0)
    centres, truth = torch.rand(7, 16, generator=rng), torch.randint(7, (1050,), generator=rng)
    x = (centres[truth] + 0.12 * torch.randn(1050, 16, generator=rng)).clamp(0, 1)
    y, flipped = wrong(truth, 0.2, 7)
    defense = DEFENSES.build(name, settings)
    metrics = _train(defense, Batch(x, y, torch.arange(1050)))
    found = defense.suspects()
    assert found is not None
    ids, noise = found
    assert sorted(ids.tolist()) == list(range(1050))
    assert roc_auc_score(flipped[ids], noise) > 0.95
    assert metrics["defense/noise_rate"] == pytest.approx(0.2, abs=0.06)
    assert metrics["defense/mixture_separation"] > 2


def _train(defense: Defense, data: Batch, epochs: int = 14) -> dict[str, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 7))
    learner, count, metrics = Learner(model, lr=0.2), len(data), dict[str, float]()
    steps = epochs * count // 50
    for t in range(steps):
        epoch, start = divmod(50 * t, count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(epoch))
        ctx = StepContext(0, "defense", t, metrics, share=t / steps, epoch_size=count)
        seen = defense.intercept(learner.view(), data.rows(order[start : start + 50]), ctx)
        SGD().step(learner, defense, seen, ctx)
    return metrics


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": -1.0},
        {"reg_term": math.nan},
        {"mixture": "gamma"},
        {"window": 1},
        {"refit": 0},
        {"min_samples": 1},
        {"min_separation": -1.0},
        {"max_b": 1.5},
        {"warmup_epochs": -1},
        {"target": "harder"},
    ],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(InputError, match=f"defense.{name}"):
        DEFENSES.build("NLL-STATIC", settings)
    if name != "target":
        with pytest.raises(InputError, match=f"defense.{name}"):
            DEFENSES.build("NLL-DYNAMIC", settings)
