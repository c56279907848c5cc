"""Public contract checks for attacks, defences, releases, models and data sets, those of other packages too.

Call them from a test of your own, under any test framework::

    from accupoison.testing import check_attack, check_defense

    def test_my_defense() -> None:
        check_defense(lambda: MyDefense(strength=0.5))
"""

from accupoison.testing.attack import check_attack
from accupoison.testing.bench import unchanged
from accupoison.testing.data import check_data
from accupoison.testing.defense import check_defense
from accupoison.testing.model import check_model
from accupoison.testing.release import check_release

__all__ = ["check_attack", "check_data", "check_defense", "check_model", "check_release", "unchanged"]
