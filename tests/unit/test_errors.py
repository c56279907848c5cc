import pickle

import pytest

from accupoison.errors import InputError

FLAGS = {"data.name": "--data", "start.reference": "--reference"}


def test_settings_are_named_as_they_are_or_by_their_options() -> None:
    error = InputError("there is no early.pt; give one with <start.reference>, or set <attack.eps> below <1.5>")
    assert str(error) == "there is no early.pt; give one with start.reference, or set attack.eps below <1.5>"
    assert error.text("python cli.py", FLAGS).startswith("there is no early.pt; give one with --reference, or set")


@pytest.mark.parametrize(
    ("options", "shown", "asked"),
    [
        ({}, "accupoison burnin", "python cli.py burnin"),
        (
            {"data.name": "npz:a b"},
            "accupoison burnin --set 'data.name=npz:a b'",
            "python cli.py burnin --data 'npz:a b'",
        ),
        ({"resume": "run"}, "accupoison burnin --resume run", "python cli.py burnin --resume run"),
    ],
)
def test_a_command_that_mends_it_ends_the_sentence(options: dict[str, object], shown: str, asked: str) -> None:
    error = InputError("there is no checkpoint; make it with", "burnin", options)
    assert str(error) == f"there is no checkpoint; make it with: {shown}"
    assert error.text("python cli.py", FLAGS) == f"there is no checkpoint; make it with: {asked}"


def test_it_comes_whole_out_of_another_process() -> None:
    error = pickle.loads(pickle.dumps(InputError("give <data.name>", "online", {"resume": "run"})))
    assert error.text("python cli.py", FLAGS) == "give --data: python cli.py online --resume run"
