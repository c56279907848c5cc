"""docs/paper-commands.md: every command and setting in it resolves, and every flag of the scripts is there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.conftest import ONLINE, ROOT, done, refused

TEXT = (ROOT / "docs" / "paper-commands.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python cli\.py (.+)$", TEXT, flags=re.MULTILINE)
TRAIN_FLAGS = """
    group_norm batch_size test_batch_size workers epochs start_epoch save_freq lr resume outf clip_gradnorm clipvalue
"""
ONLINE_FLAGS = """
    dataroot shared depth group_norm batch_size test_batch_size workers log_name attack_method print_freq lr niter
    online epsilon dset_size seed shuffle use_bn only_second only_normal only_reg use_initlr resume model_name mode
    onlinemode distance outf epochs gamma beta logdir momentum weight_decay poison_scale roundsign use_advtrigger
    use_online_advtrigger num-steps threshold restore_optimizer clip_gradnorm clipvalue med
"""
"""What the argument parsers of the released scripts take."""


def tables() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each table's heading with the cells of its first two columns."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        found.append((rows[0][0], [(row[0], row[1]) for row in rows[2:]]))
    return found


SETTINGS = [
    ("burnin" if "train_cifar" in title else "online", ours.strip("`"))
    for title, rows in tables()
    for _, ours in rows
    if ours
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_resolves(command: str, work: Path) -> None:
    done(*ONLINE, "--save-batches", "--out", "logs/source") if "--replay" in command else None
    if command == "audit challenge ROOT":
        assert "ROOT has no cell of the challenge" in refused(*shlex.split(command))  # it would run
    else:
        done(*shlex.split(command), "--dry-run")


@pytest.mark.parametrize(("command", "options"), SETTINGS)
def test_every_setting_resolves(command: str, options: str, work: Path) -> None:
    (work / "data").mkdir()
    place = "checkpoints/digits-resnet8-w4-batch-demo-seed0"
    words = [place if word == "DIR" else word for word in shlex.split(options)]
    done(command, *words, "--dry-run")


@pytest.mark.parametrize(("script", "flags"), [("train_cifar", TRAIN_FLAGS), ("online_accu_train", ONLINE_FLAGS)])
def test_every_flag_of_the_scripts_is_there(script: str, flags: str) -> None:
    (rows,) = [rows for title, rows in tables() if script in title]
    named = set(re.findall(r"--([a-z][\w-]*)", " ".join(theirs for theirs, _ in rows)))
    assert named == set(flags.split())


def test_the_page_has_the_commands_it_is_about() -> None:
    assert len(COMMANDS) >= 9
    assert len(SETTINGS) >= 40
