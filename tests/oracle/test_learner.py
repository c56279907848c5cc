"""Views: what they show, and what they leave alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from accupoison.accel.layers import substitute
from accupoison.defenses import Defense
from accupoison.learner import Learner
from accupoison.loop.context import StepContext
from accupoison.models.factory import ModelSpec, build_model
from accupoison.models.view import view_of
from accupoison.testing import unchanged
from accupoison.types import ModelView
from accupoison.updates import SGD
from tests.messages import refuses
from tests.nets import random_batch, random_net

BATCH = random_batch(1)


def nets() -> list[nn.Module]:
    """Return one network of each kind, float64, in eval mode."""
    spec = {"width": 4, "num_classes": 10}
    made = [build_model(ModelSpec(name=name, norm=norm, **spec)) for name, norm in _KINDS]  # type: ignore[arg-type]
    return [random_net(0), *(net.double() for net in made)]


_KINDS = [("resnet8", "batch"), ("convnet", "group"), ("resnet18", "batch"), ("convnet", "auxiliary")]


@pytest.fixture(params=range(1 + len(_KINDS)), ids=["tiny", *(f"{name}-{norm}" for name, norm in _KINDS)])
def net(request: pytest.FixtureRequest) -> nn.Module:
    return nets()[int(request.param)]


def answers(net: nn.Module, x: Tensor) -> Tensor:
    """Return what a module says by the layers that a view has, so that equal means equal bits."""
    out: Tensor = substitute(copy.deepcopy(net), twice=True)(x)
    return out


def learn(learner: Learner) -> None:
    SGD().step(learner, Defense(), BATCH, StepContext(0, "update", 0, {}))


def test_logits_are_those_of_the_model(net: nn.Module) -> None:
    view = view_of(net)
    with unchanged(Learner(net, lr=0.1), "the view", BATCH), torch.no_grad():
        assert torch.equal(view.logits(BATCH.x), answers(net, BATCH.x))
        assert view.logits(BATCH.x).dtype == torch.float64


def test_train_logits_are_those_of_a_training_step_and_leave_no_trace(net: nn.Module) -> None:
    view, twin = view_of(net), copy.deepcopy(net).train()
    before = copy.deepcopy(twin.state_dict())
    with unchanged(Learner(net, lr=0.1), "the view", BATCH), torch.no_grad():
        ours = view.logits(BATCH.x, train=True)
        assert torch.equal(ours, substitute(twin, twice=True)(BATCH.x))
        normalised = any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        assert torch.equal(ours, view.logits(BATCH.x)) is not normalised
    moved = any(not torch.equal(value, before[name]) for name, value in twin.state_dict().items())
    assert moved is normalised  # the twin's statistics did move


def test_view_of_a_network_in_train_mode() -> None:
    net = random_net(0).train()
    view, twin = view_of(net), copy.deepcopy(net)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        assert torch.equal(view.logits(BATCH.x), answers(twin, BATCH.x))
        assert torch.equal(view.features(BATCH.x), answers(copy.deepcopy(net)[:-1], BATCH.x))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():  # the mode is the one at the time of view_of
        assert not torch.equal(view.logits(BATCH.x), answers(net, BATCH.x))


def test_aliases_see_updates_and_snapshots_do_not(net: nn.Module) -> None:
    learner = Learner(net, lr=0.1)
    alias, snapshot, outside = learner.view(), learner.snapshot(), view_of(net)
    with torch.no_grad():
        before = answers(net, BATCH.x)
    learn(learner)
    with torch.no_grad():
        after = answers(net, BATCH.x)
        assert not torch.equal(before, after)
        assert torch.equal(alias.logits(BATCH.x), after)
        assert torch.equal(outside.logits(BATCH.x), after)
        assert torch.equal(snapshot.logits(BATCH.x), before)
    assert learner.view() is alias


def test_views_survive_a_restore(net: nn.Module) -> None:
    learner = Learner(net, lr=0.1)
    learn(learner)
    view, state = learner.view(), learner.state()
    expected = view.logits(BATCH.x).detach()
    learn(learner)
    assert not torch.equal(view.logits(BATCH.x).detach(), expected)
    learner.restore(state)
    assert torch.equal(view.logits(BATCH.x).detach(), expected)
    learn(learner)
    later = learner.weights()
    learner.restore(state)
    learn(learner)
    assert torch.equal(learner.weights(), later)  # the momentum came back, too, and the state was not used up


def test_params_stand_in_for_weights(net: nn.Module) -> None:
    view, twin = view_of(net), copy.deepcopy(net)
    rng = torch.Generator().manual_seed(0)
    vector = parameters_to_vector(twin.parameters()).detach()
    vector = vector + 0.01 * torch.randn(vector.shape, generator=rng, dtype=vector.dtype)
    vector_to_parameters(vector, twin.parameters())
    params = tuple(p.detach() for p in twin.parameters())
    with unchanged(Learner(net, lr=0.1), "the view"), torch.no_grad():
        for train in (False, True):
            ours = view.logits(BATCH.x, train=train, params=params)
            assert torch.equal(ours, answers(copy.deepcopy(twin).train(train), BATCH.x))
            assert not torch.equal(ours, view.logits(BATCH.x, train=train))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch.func.jvp calls it itself
def test_params_carry_forward_derivatives() -> None:
    """A Jacobian-vector product through params= equals the central difference."""
    net = random_net(0)
    view = view_of(net)
    rng = torch.Generator().manual_seed(0)
    direction = tuple(torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in view.params())

    def logits(*params: Tensor) -> Tensor:
        return view.logits(BATCH.x, params=params)

    product: Tensor = torch.func.jvp(logits, view.params(), direction)[1]
    h = 1e-6
    ahead, behind = (
        view.logits(BATCH.x, params=tuple(p + s * h * d for p, d in zip(view.params(), direction, strict=True)))
        for s in (1, -1)
    )
    torch.testing.assert_close(product, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)


def test_features_are_what_the_last_linear_layer_reads(net: nn.Module) -> None:
    view = view_of(net)
    head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    with unchanged(Learner(net, lr=0.1), "the view"), torch.no_grad():
        features = view.features(BATCH.x)
        assert features.shape == (len(BATCH), head.in_features)
        torch.testing.assert_close(head(features), answers(net, BATCH.x))
    x = BATCH.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(view.features(x).sum(), x)
    assert float(slope.abs().max()) > 0


def test_no_features_without_a_linear_layer() -> None:
    with refuses("Sequential linear", ValueError):
        view_of(nn.Sequential(nn.Conv2d(3, 10, 8), nn.Flatten()).double()).features(BATCH.x)


def test_backward_through_a_view_leaves_the_model_alone(net: nn.Module) -> None:
    learner = Learner(net, lr=0.1)
    learn(learner)
    view = learner.view()
    with unchanged(learner, "backward", BATCH):
        loss = F.cross_entropy(view.logits(BATCH.x, train=True), BATCH.y)
        loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in view.params())
    grads = torch.autograd.grad(F.cross_entropy(net.train()(BATCH.x), BATCH.y), tuple(net.parameters()))
    for leaf, grad in zip(view.params(), grads, strict=True):
        torch.testing.assert_close(leaf.grad, grad, rtol=0, atol=1e-12)


def test_state_names_everything_and_follows_along() -> None:
    learner = Learner(build_model(ModelSpec(name="resnet8", width=4)), lr=0.1)
    view: ModelView = learner.view()
    assert view.params()[0] is view.params()[0]
    assert [p.shape for p in view.params()] == [p.shape for p in learner.model.parameters()]
    state = view.state()
    assert set(learner.model.state_dict()) < set(state)  # and the normalisation, which is not saved
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    batch = random_batch(1, dtype=torch.float32)
    SGD().step(learner, Defense(), batch, StepContext(0, "update", 0, {}))
    assert int(view.state()[counter]) == 1
    assert all(not value.requires_grad for value in view.state().values())


def test_hooks_of_others_do_not_matter() -> None:
    net, seen = random_net(0), []
    view = view_of(net)
    net[0].register_forward_hook(lambda *_: seen.append(1))
    view.logits(BATCH.x)
    assert not seen


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_in_train_mode_inside_forward_alone(fails: bool) -> None:
    learner = Learner(random_net(0).train(), lr=0.1)
    assert not learner.model.training
    try:
        with learner.forward():
            assert all(m.training for m in learner.model.modules())
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert not any(m.training for m in learner.model.modules())


def test_score_reads_in_eval_mode() -> None:
    learner = Learner(random_net(0), lr=0.1)
    with unchanged(learner, "score", BATCH):
        losses, hits = learner.score(BATCH)
    with torch.no_grad():
        logits = answers(learner.model, BATCH.x)
    assert torch.equal(losses, F.cross_entropy(logits, BATCH.y, reduction="none"))
    assert hits.tolist() == (logits.argmax(1) == BATCH.y).tolist()


def test_a_view_of_a_network_that_uses_a_weight_twice() -> None:
    layers = nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 192)
    layers[2].weight = layers[0].weight
    net, x = nn.Sequential(nn.Flatten(), *layers).double(), BATCH.x
    view = view_of(net)
    assert torch.equal(view.logits(x), net(x))
    assert len(view.params()) == 3
    leaves = ((view.logits(x), view.params()[0]), (net(x), layers[0].weight))
    assert torch.equal(*(torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in leaves))
