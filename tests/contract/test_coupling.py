"""Rows that depend on each other are found, and no epsilon is stated unless the author has said that they do not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from torch import Tensor

from accupoison.config.schema import online_config
from accupoison.defenses import DEFENSES, AdversarialTraining, Clip, Defense, DiscrepancyCorrection, Freeze, Trades
from accupoison.errors import InputError
from accupoison.testing import check_defense
from accupoison.testing.coupling import check_coupling
from accupoison.types import Batch, Context, Forward, Grads, ModelView
from tests.contract.apart_defenses import APART
from tests.contract.coupled_defenses import COUPLED, TellsTheGradients, mean_image, weighing
from tests.messages import says


@pytest.mark.parametrize("cls", COUPLED, ids=lambda cls: cls.__name__)
def test_rows_that_depend_on_each_other(cls: type[Defense]) -> None:
    with pytest.raises(AssertionError, match=r"lets one row's image or loss depend on another's, yet .* \(seen with"):
        check_coupling(cls)


@pytest.mark.parametrize("cls", APART, ids=lambda cls: cls.__name__)
def test_rows_that_do_not(cls: type[Defense]) -> None:
    check_coupling(cls)


def test_the_whole_check_takes_a_defence_that_says_nothing_and_refuses_it_when_rows_depend_on_each_other() -> None:
    check_defense(weighing(lambda losses, batch: losses))  # declared, and so it is

    @dataclass(kw_only=True)
    class Silent(Defense):
        neutral: ClassVar[None] = None

        def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return batch.rows(batch.y < 3)

    check_defense(Silent)
    with pytest.raises(AssertionError, match=r"set `couples: ClassVar\[bool\] = True`"):
        check_defense(COUPLED[0])


def test_who_couples_may_say_so() -> None:
    @dataclass(kw_only=True)
    class Admitted(TellsTheGradients):
        couples: ClassVar[bool] = True

    check_coupling(Admitted)


def test_a_defence_that_fails_on_a_batch_of_another_size_is_named() -> None:
    @dataclass(kw_only=True)
    class Six(Defense):
        def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return batch.with_x(batch.x.view(-1, 6, *batch.x.shape[1:]).flatten(0, 1))

    with pytest.raises(AssertionError, match=r"defence Six failed on 5 rows \(RuntimeError: shape "):
        check_coupling(Six)


def test_what_the_shipped_ones_declare() -> None:
    declared = {cls: cls.couples for cls in (Defense, AdversarialTraining, Trades, Clip, Freeze)}
    assert set(declared.values()) == {False}
    assert DiscrepancyCorrection.couples is True


def test_a_declaration_holds_for_the_methods_it_was_made_of() -> None:
    class Lossy(Defense):
        def losses(self, forward: Forward, batch: Batch) -> Tensor:
            return super().losses(forward, batch)

    class Declared(Lossy):
        couples = False

    class Clipping(Declared):
        amount: float = 1.0

        def gradients(self, grads: Grads, momentum: Grads, ctx: Context) -> Grads:
            return grads

    class Mixed:
        def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return batch

    class Mixing(Mixed, Clipping):
        pass

    class Anew(Mixing):
        couples = True

    class Stateful(AdversarialTraining):
        def state(self) -> dict[str, Any]:
            return {}

    found = [cls.couples for cls in (Lossy, Declared, Clipping, Mixing, Anew, Stateful)]
    assert found == [None, False, False, None, True, None]


@pytest.fixture
def undeclared() -> Iterator[str]:
    """Register a defence that does not say whether it couples."""

    @dataclass(kw_only=True)
    class Blurred(Defense):
        def intercept(self, view: ModelView, batch: Batch, ctx: Context) -> Batch:
            return mean_image(view, batch, ctx)

    DEFENSES.register("BLUR")(Blurred)
    yield "BLUR"
    del DEFENSES._things["BLUR"], DEFENSES._aliases["blur"]


def test_no_epsilon_for_who_has_not_declared(undeclared: str) -> None:
    layer: dict[str, Any] = {"defense": {"name": undeclared}, "update": {"name": "dpsgd"}}
    with pytest.raises(InputError) as caught:
        online_config([layer])
    for words in (
        "the defence BLUR does not say whether rows depend on each other",
        "declare `couples: ClassVar[bool] = False` in Blurred if no row's image or loss depends on another's",
        "accupoison.testing.check_defense",
    ):
        says(caught.value, words)
    online_config([layer, {"update": {"coupled": True}}])
    online_config([{"defense": {"name": undeclared}}])  # without DP nothing need be declared
