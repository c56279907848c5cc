"""What README.md and docs/ tell people to type works: commands, settings, Python; each flag of the papers is there."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accupoison.defenses import DEFENSES
from accupoison.registry import Registry
from accupoison.release import RELEASES
from accupoison.testing import check_defense, check_release
from tests.e2e.conftest import ONLINE, ROOT, done

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
LINKED = [*PAGES, "benchmarks/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
TEXT = PAGES["docs/paper-commands.md"]
GRIDS = [path.read_text(encoding="utf-8") for path in (ROOT / "accupoison" / "grids").rglob("*.toml")]
PROGRAM = r"(?:python cli\.py|python -m accupoison|accupoison)"


def commands_in(text: str) -> Iterator[str]:
    """Yield what is typed after the program: in indented lines, also of a comment, and in code in a sentence."""
    text = text.replace("\\\n", " ")
    shown = re.findall(r"^#? {2,}(\S.*)$", text, flags=re.MULTILINE) + re.findall(r"(?<!`)`([^`]+)`(?!`)", text)
    for line in shown:
        for part in line.partition(" # ")[0].split(" && "):
            if found := re.fullmatch(rf"{PROGRAM} ([a-z].*)", " ".join(part.split())):
                yield found[1]


COMMANDS = sorted({command for text in (*PAGES.values(), *GRIDS) for command in commands_in(text)})
BLOCKS = [
    (name, code) for name, text in PAGES.items() for code in re.findall(r"```python\n(.+?)```", text, flags=re.DOTALL)
]
STORY = "docs/python.md"
"""The page whose blocks go on from each other."""
FILES = {found[1]: code for name, code in BLOCKS if name == STORY and (found := re.match(r"# (\w+\.py)\n", code))}
"""Blocks of that page that begin with the name of a file."""
PYTHON = [(name, code) for name, code in BLOCKS if name != STORY]
TRAIN_FLAGS = """
    group_norm batch_size test_batch_size workers epochs start_epoch save_freq lr resume outf clip_gradnorm clipvalue
"""
ONLINE_FLAGS = """
    dataroot shared depth group_norm batch_size test_batch_size workers log_name attack_method print_freq lr niter
    online epsilon dset_size seed shuffle use_bn only_second only_normal only_reg use_initlr resume model_name mode
    onlinemode distance outf epochs gamma beta logdir momentum weight_decay poison_scale roundsign use_advtrigger
    use_online_advtrigger num-steps threshold restore_optimizer clip_gradnorm clipvalue med
"""
PMIANLL_FLAGS = """
    root-dir batch-size test-batch-size epochs lr dataset momentum device seed log-interval experiment-name alpha M
    Mixup clean_model BootBeta reg-term exp defence_method target_class poison_strategy attack_train_amount
    attack_test_amount model_name noise_level distribution synthemic_samples
"""
"""What the argument parsers of the released scripts take."""
SCRIPTS = [("train_cifar", TRAIN_FLAGS), ("online_accu_train", ONLINE_FLAGS), ("train.py", PMIANLL_FLAGS)]


def tables() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each table's heading with the cells of its first two columns."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        found.append((rows[0][0], [(row[0], row[1]) for row in rows[2:]]))
    return found


SETTINGS = [
    ("burnin" if "train_cifar" in title or "train.py" in title else "online", ours.strip("`"))
    for title, rows in tables()
    for _, ours in rows
    if ours
]


def write_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write :data:`FILES` where the command line finds them: in the current folder."""
    monkeypatch.syspath_prepend(folder)
    for name, code in FILES.items():
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
        (folder / name).write_text(code)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_resolves(command: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--dry-run`` where a command has it; the others must know every word and option."""
    write_files(work, monkeypatch)
    (work / "data").mkdir()
    words = ["0" if word == "S" else word for word in shlex.split(command)]  # S stands for a seed
    if "--replay" in words:
        done(*ONLINE, "--save-batches", "--out", words[words.index("--replay") + 1])
    text = done(*words, "--help").stdout
    if "--dry-run" in text:
        done(*words, "--dry-run")


@pytest.mark.parametrize(("command", "options"), SETTINGS)
def test_every_setting_resolves(command: str, options: str, work: Path) -> None:
    (work / "data").mkdir()
    place = "checkpoints/digits-resnet8-w4-batch-demo-2epochs-seed0"
    words = [place if word == "DIR" else word for word in shlex.split(options)]
    done(command, *words, "--dry-run")


@pytest.mark.parametrize(("script", "flags"), SCRIPTS)
def test_every_flag_of_the_scripts_is_there(script: str, flags: str) -> None:
    (rows,) = [rows for title, rows in tables() if script in title]
    named = set(re.findall(r"--([A-Za-z][\w-]*)", " ".join(theirs for theirs, _ in rows)))
    assert named == set(flags.split())


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_every_python_block_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defence or a release of the page is found by its name and keeps the contract."""
    kinds: list[tuple[Registry[Any], Callable[..., None]]] = [(DEFENSES, check_defense), (RELEASES, check_release)]
    before = {registry.kind: set(registry.names()) for registry, _ in kinds}
    for registry, _ in kinds:
        for names in ("_things", "_aliases"):
            monkeypatch.setattr(registry, names, dict(getattr(registry, names)))
    (tmp_path / "block.py").write_text(code)
    runpy.run_path(str(tmp_path / "block.py"))
    for (registry, check), word in zip(kinds, ("@DEFENSES.register", "@RELEASES.register"), strict=True):
        new = set(registry.names()) - before[registry.kind]
        assert len(new) == code.count(word)
        for name in new:
            assert name in done("list").stdout
            check(lambda: registry.build(name.lower(), {}))  # noqa: B023


@pytest.mark.slow
def test_the_python_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one script, beside its files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCUPOISON_DATA", raising=False)
    write_files(tmp_path, monkeypatch)
    script = [code for name, code in BLOCKS if name == STORY and code not in FILES.values()]
    assert len(script) >= 7
    Path("story.py").write_text("\n".join(script))
    runpy.run_path("story.py")
    assert Path("study/report.html").exists()


def test_where_commands_are_found() -> None:
    text = """
    python cli.py burnin \\
        --seed 1            # a comment
    python cli.py sweep a && python cli.py report logs/a
    make demo
Type `accupoison list`, or `python -m accupoison doctor
--json`; `accupoison` is the package, ``accupoison.errors`` a module.
#   python cli.py sweep b
"""
    assert [*commands_in(text)] == ["burnin --seed 1", "sweep a", "report logs/a", "sweep b", "list", "doctor --json"]


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are called in links."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED)
def test_every_link_leads_somewhere(page: str) -> None:
    place = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", place.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            aim = (place.parent / path).resolve() if path else place
            assert aim.exists(), target
            assert not anchor or anchor in anchors(aim), target


def test_the_index_has_every_page() -> None:
    missing = [page for page in PAGES if f"]({page.removeprefix('docs/')})" not in PAGES["docs/README.md"]]
    assert missing == ["README.md", "docs/README.md"], "one is named by its heading, the other is the index"


def test_the_pages_have_what_they_are_about() -> None:
    assert {page for page, _ in PYTHON} >= {"README.md", "docs/extending.md"}
    assert len(COMMANDS) >= 80
    assert {"online --med OURS", "compare --med ST,OURS", "sweep curves --jobs 2", "list"} <= set(COMMANDS)
    assert len(SETTINGS) >= 40
