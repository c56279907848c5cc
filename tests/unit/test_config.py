import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from accupoison.cli import cli
from accupoison.config.layers import assignments, coerce, number, plain, read_toml
from accupoison.config.schema import at_home, burnin_config, online_config
from accupoison.errors import InputError
from accupoison.records.run_directory import RunDirectory, differences
from tests.messages import refuses


def shown(*arguments: str) -> dict[str, Any]:
    """Return the resolved settings that ``online --dry-run`` prints."""
    result = CliRunner().invoke(cli, ["online", *arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_later_layers_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    file = tmp_path / "run.toml"
    file.write_text('[attack]\neps = "4/255"\n[stream]\nsteps = 7\n')
    steps: list[tuple[list[str], float, int]] = [
        ([], 16 / 255, 10),
        (["--preset", "released"], 0.2, 100),
        (["--config", str(file)], 4 / 255, 7),
        (["--eps", "0.5", "--steps", "8"], 0.5, 8),
        (["--set", "attack.eps=0.25", "--set", "stream.steps=9"], 0.25, 9),
        (["--set", "attack.eps=1/8"], 0.125, 9),
    ]
    given: list[str] = []
    for more, eps, count in steps:
        given = [*given, *more]
        found = shown(*given)
        assert (found["attack"]["eps"], found["stream"]["steps"]) == (eps, count)
    assert shown("--set", "attack.eps=0.25", "--eps", "0.5")["attack"]["eps"] == 0.25


def test_the_data_directory_comes_from_the_environment_unless_a_file_or_flag_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[data]\ndir = "two"\n')
    monkeypatch.setenv("ACCUPOISON_DATA", str(tmp_path))
    assert shown()["data"]["dir"] == str(tmp_path)
    assert shown("--config", str(file))["data"]["dir"] == "two"
    three = tmp_path / "three"
    three.mkdir()
    assert shown("--config", str(file), "--data-dir", str(three))["data"]["dir"] == str(three)
    monkeypatch.setenv("ACCUPOISON_DATA", "nowhere")
    assert shown()["data"]["dir"] is None
    monkeypatch.delenv("ACCUPOISON_DATA")
    assert shown()["data"]["dir"] is None


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (0.1, 0.1),
        (1, 1.0),
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("1e-3", 1e-3),
        ("inf", math.inf),
        ("-inf", -math.inf),
        (math.inf, math.inf),
        ("-1/2", -0.5),
        ("0/5", 0.0),
    ],
)
def test_numbers(value: object, result: float) -> None:
    assert number(value, "a.b") == result
    assert coerce(value, float, "a.b") == result


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("8/0", "a.b '8/0' divides zero 8/255"),
        ("0/0", "a.b '0/0' divides zero"),
        ("nan", "a.b 'nan' number 0.1 8/255"),
        (math.nan, "a.b nan number"),
        ("inf/inf", "a.b 'inf/inf' number"),
        ("", "a.b '' number"),
        ("8/", "a.b '8/' number"),
        ("1/2/3", "a.b '1/2/3' number"),
        ("0,1", "a.b '0,1' number"),
        (True, "a.b True number"),
        (None, "a.b None number"),
        ([1], "a.b [1] number"),
    ],
)
def test_what_is_no_number(value: object, message: str) -> None:
    with refuses(message):
        number(value, "a.b")


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        ("none", float | None, None),
        ("None", int | None, None),
        (None, str | None, None),
        ("0.5", float | None, 0.5),
        ("none", str, "none"),
        (" x ", str, "x"),
        ("7", int, 7),
        ("-7", int, -7),
        ("True", bool, True),
        ("false", bool, False),
        (False, bool, False),
        ("a, b", tuple[str, ...], ("a", "b")),
        ("none", tuple[str, ...], ("none",)),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        ((), tuple[str, ...], ()),
        ("", tuple[int, ...], ()),
        ("1,2", tuple[int, ...], (1, 2)),
        ("8/255,inf", tuple[float, ...], (8 / 255, math.inf)),
    ],
)
def test_texts_become_values(value: object, hint: object, result: object) -> None:
    found = coerce(value, hint, "a.b")
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("1.5", int, "a.b '1.5' whole number 10"),
        (1.0, int, "a.b 1.0 type type int"),
        (True, int, "a.b True type"),
        (1, str, "a.b 1 type type str"),
        ("yes", bool, "a.b 'yes' true false"),
        (1, bool, "a.b 1 true false"),
        ("none", float, "a.b 'none' number"),
        (3, tuple[int, ...], "a.b 3 list"),
        ({"x": 1}, tuple[str, ...], "is not a list"),
        ("1,,2", tuple[int, ...], "a.b '' whole number"),
        ([1, None], tuple[int, ...], "a.b None type"),
    ],
)
def test_values_that_do_not_fit(value: object, hint: object, message: str) -> None:
    with refuses(message):
        coerce(value, hint, "a.b")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"strem": {}}, "unknown section 'strem'; did you mean stream?"),
        ({"zzz": {}}, "unknown section 'zzz'; choose from attack, data, defense"),
        ({"stream": 3}, "stream = 3 is not a section; write stream.KEY = VALUE"),
        ({"stream": {"stps": 3}}, "unknown setting stream.stps; did you mean steps?"),
        ({"attack": {"epz": 3}}, "unknown setting attack.accumulative.epz; did you mean eps?"),
        ({"attack": {"kind": "uniform"}}, "attack.kind is a setting of noise and attack.name is accumulative; "),
        ({"defense": {"steps": 3}}, "defense.steps is a setting of AT, DSC, TRADES and defense.name is ST; "),
        ({"defense": {"TRADE": {"beta": 3}}}, "unknown defence 'TRADE'; did you mean trades?"),
        ({"defense": {"AT": {"stepz": 3}}}, "unknown setting defense.AT.stepz; did you mean steps?"),
        ({"defense": {"name": "AT", "steps": {"x": 1}}}, "unknown defence 'steps'"),
        ({"attack": {"name": "noize"}}, "unknown attack 'noize'; did you mean noise?"),
        ({"attack": {"name": ["noise"]}}, "unknown attack \"['noise']\""),
        ({"trigger": {"types": 3}}, "trigger.types = 3 is not a list"),
    ],
)
def test_unknown_names_come_with_the_closest(layer: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        online_config([layer])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_settings_without_a_name_beside_them_belong_to_whichever_is_chosen() -> None:
    common = {"attack": {"eps": 0.25, "steps": 3}}
    for name in ("accumulative", "direct", "noise", "none"):
        chosen = online_config([common, {"attack": {"name": name}}]).attack
        assert (chosen.name, chosen.settings["eps"], chosen.settings["steps"]) == (name, 0.25, 3)


def test_settings_of_before_the_choice_are_dropped_where_it_has_no_such_setting() -> None:
    common = {"attack": {"eps": 0.25, "steps": 3}}
    assert online_config([common, {"attack": {"name": "code"}}]).attack.settings["std"] == 0.1
    with refuses("attack.eps accumulative attack.name code"):
        online_config([{"attack": {"name": "code"}}, {"attack": {"eps": 0.25}}])
    with refuses("attack.noise.epz eps"):  # a typing error is one wherever it stands
        online_config([{"attack": {"epz": 0.25}}, {"attack": {"name": "noise"}}])


def test_settings_with_a_name_beside_them_go_with_it() -> None:
    tied = {"attack": {"name": "noise", "kind": "rademacher", "eps": 0.25}}
    assert online_config([tied]).attack.settings["kind"] == "rademacher"
    other = online_config([tied, {"attack": {"name": "direct"}}]).attack
    assert (other.name, other.settings["eps"]) == ("direct", 16 / 255)
    back = online_config([tied, {"attack": {"name": "direct"}}, {"attack": {"name": "noise"}}]).attack
    assert back.settings["kind"] == "rademacher"
    later = online_config([tied, {"attack": {"eps": 0.5}}]).attack
    assert (later.settings["kind"], later.settings["eps"]) == ("rademacher", 0.5)


def test_tables_by_name_count_only_if_it_is_chosen() -> None:
    tables = {"defense": {"DSC": {"threshold": 0.5}, "AT": {"direction": "descend"}}}
    assert online_config([tables]).defense.settings == {}
    assert online_config([tables, {"defense": {"name": "ours"}}]).defense.settings["threshold"] == 0.5
    assert online_config([tables, {"defense": {"name": "at"}}]).defense.settings["direction"] == "descend"
    alias = {"defense": {"name": "AT", "OURS": {"threshold": 0.25}}}
    assert online_config([alias, {"defense": {"name": "DSC"}}]).defense.settings["threshold"] == 0.25
    over = online_config([tables, {"defense": {"name": "DSC", "threshold": 0.75}}]).defense
    assert over.settings["threshold"] == 0.75
    calibrated = online_config([tables, assignments(["defense.DSC.threshold=none", "defense.name=DSC"])]).defense
    assert calibrated.settings["threshold"] is None


@pytest.mark.parametrize("alias", ["ours", "OURS", "Dsc"])
def test_names_are_canonical(alias: str) -> None:
    assert online_config([{"defense": {"name": alias}}]).defense.name == "DSC"


def test_assignments() -> None:
    pairs = ["a.b=1", "a.c = x=y ", "a.N.d=2", "a.N.e=3", "a.b=4"]
    assert assignments(pairs) == {"a": {"b": "4", "c": "x=y", "N": {"d": "2", "e": "3"}}}
    assert assignments([]) == {}
    assert assignments(["a.b="]) == {"a": {"b": ""}}


@pytest.mark.parametrize("pair", ["", "a", "a.b", "a=1", "=1", "a.=1", ".b=1", "a.b.c.d=1", "a..b=1"])
def test_assignments_of_another_form(pair: str) -> None:
    with refuses("section.key=value attack.eps=8/255"):
        assignments([pair])


@pytest.mark.parametrize("pairs", [["a.b=1", "a.b.c=2"], ["a.b.c=2", "a.b=1"]])
def test_assignments_that_contradict_each_other(pairs: list[str]) -> None:
    with refuses(f"'{pairs[1]}' drop"):
        assignments(pairs)


def test_a_file_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[stream]\nkind = "iid"\n')
    assert read_toml(tmp_path / "a.toml") == {"stream": {"kind": "iid"}}
    (tmp_path / "b.toml").write_text("[stream\n")
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    for name, message in [("b", "is not valid TOML: "), ("c", "is not valid TOML: "), ("d", "No such file")]:
        with refuses(message) as refusal:
            read_toml(tmp_path / f"{name}.toml")
        assert "\n" not in str(refusal.value)
    with refuses("Is a directory"):
        read_toml(tmp_path)


def test_data_that_moved_are_no_difference(tmp_path: Path) -> None:
    stored, now = (plain(burnin_config([{"data": {"dir": name, "val": val}}])) for name, val in (("a", 1), ("b", 2)))
    run = tmp_path / "run"
    assert at_home(now, run) == now
    RunDirectory.create(run, stored, {}).close()
    assert differences(stored, at_home(now, run)) == ["data.val: stored 1, given 2"]


def test_a_run_of_before_a_setting_goes_on(tmp_path: Path) -> None:
    now = plain(burnin_config([{"run": {"kernels": "torch"}}]))
    stored = {**now, "run": {key: value for key, value in now["run"].items() if key != "kernels"}}
    for name, given, due in (("old", stored, []), ("new", plain(burnin_config([])), ["auto"])):
        RunDirectory.create(tmp_path / name, given, {}).close()
        assert differences(given, at_home(now, tmp_path / name)) == [
            f'run.kernels: stored "{kernels}", given "torch"' for kernels in due
        ]
    with refuses("run.kernels 'tensor' torch"):
        burnin_config([{"run": {"kernels": "tensor"}}])


def test_a_run_of_before_a_setting_of_its_component_goes_on_with_the_default(tmp_path: Path) -> None:
    stored = plain(online_config([{"defense": {"name": "DSC"}}]))
    old = {**stored, "defense": {key: value for key, value in stored["defense"].items() if key != "per_sample"}}
    RunDirectory.create(tmp_path / "run", old, {}).close()
    for given, due in (({}, []), ({"per_sample": True}, ["per_sample"]), ({"slope": 0.1}, ["slope"])):
        now = plain(online_config([{"defense": {"name": "DSC", **given}}]))
        found = differences(old, at_home(now, tmp_path / "run"))
        assert [text.split(":")[0] for text in found] == [f"defense.{key}" for key in due]


def test_configurations_are_frozen() -> None:
    made = online_config([])
    for section in ("data", "stream", "attack"):
        with pytest.raises(AttributeError):
            setattr(made, section, None)
    with pytest.raises(AttributeError):
        made.stream.steps = 3  # type: ignore[misc]
    with pytest.raises(AttributeError, match="is a setting"):
        made.update.clip_norm = 1.0
