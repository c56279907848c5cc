"""The page of a report, its other forms and its tests of differences, from made-up runs."""

import base64
import csv
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from accupoison.audit.online.recency import SCORES, PooledAuc, write_pooled
from accupoison.config import layers
from accupoison.config.layers import plain
from accupoison.config.schema import online_config
from accupoison.errors import InputError
from accupoison.records.files import flatten
from accupoison.records.tags import AUCS
from accupoison.study.collect import Run
from accupoison.study.colors import color_of
from accupoison.study.comparisons import compare, comparison_rows, holm, sign_flip
from accupoison.study.figures import curves_picture
from accupoison.study.groups import named
from accupoison.study.outcomes import Estimate
from accupoison.study.pictures import Missing, Picture
from accupoison.study.report.audits import read_audits, strongest
from accupoison.study.report.draw import detectors
from accupoison.study.report.formats import latex, parse_formats, write_report
from accupoison.study.report.page import html_page
from accupoison.study.report.sources import ELSEWHERE, command
from accupoison.study.report.study import Report, make_report
from tests.messages import refuses
from tests.unit.test_report import made_up

EVIL = '<script>alert("$x_1^2$")</script>&\x1b\u4e2d'


@pytest.fixture(autouse=True)
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give made-up runs a curve that falls to what they end with."""

    def curve(run: Run, tag: str, trigger: str) -> list[tuple[int, float]]:
        if run.path.name == "damaged":
            raise InputError("it is damaged")
        return [(step, 0.8 - step * (0.8 - (run.after(trigger) or 0)) / 10) for step in range(11)]

    monkeypatch.setattr(Run, "curve", curve)


def study(seeds: int = 3, root: Path = Path("logs") / "study") -> list[Run]:
    """Return runs of several defences: what poison costs each is known, and differs a little from seed to seed."""
    means = {"defense/discrepancy_clean": 0.5, "defense/discrepancy_sent": 1.5}
    runs = []
    for seed in range(seeds):
        wobble = 0.01 * seed
        for defense, clean, poisoned in (("ST", 0.8, 0.5), ("FREEZE", 0.6, 0.6), ("CLIP", 0.7, 0.65)):
            cells = {
                "none": {"clean": clean + wobble},
                "accumulative": {"coast": 0.7, "adversarial": poisoned + 2 * wobble},
                "noise": {"coast": 0.75, "adversarial": clean - 0.05},
            }
            for attack, after in cells.items():
                run = made_up(attack, defense, after, burnin=seed)
                summary = {**run.summary, "means": means, "before": {"acc": 0.75, "acc_bn_reestimated": 0.78}}
                runs.append(replace(run, path=root / f"{attack}-{defense}-{seed}", summary=summary))
    return runs


def report(runs: Sequence[Run], *paths: Path) -> Report:
    said: list[str] = []
    found = make_report(
        runs,
        paths or (Path("logs/study"),),
        trigger="adversarial",
        claims=[],
        commands=("accupoison", "report logs/study"),
        say=said.append,
    )
    assert all(isinstance(sentence, str) for sentence in said)
    return found


class Page(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        self.text.append((self.open, data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def between(self, tag: str) -> str:
        return "".join(data for name, data in self.text if name == tag)


def test_the_page_opens_with_the_finding_and_the_threat_model() -> None:
    text = html_page(report(study()))
    finding = report(study()).finding
    assert finding.startswith("On cifar10, accumulative poisoning of the iid stream with the adversarial trigger costs")
    # H of ST: (0.8 + w) - (0.5 + 2w) for w in 0, 0.01, 0.02
    assert "costs standard training 29.0 ± 2.5 points" in finding
    assert "noise before the same trigger costs it 6.0 ± 2.5 points" in finding
    assert "CLIP leaves the least, 14.0 ± 2.5 points" in finding
    assert "FREEZE, which learns nothing, ends at 19.0 ± 2.5 points" in finding
    assert text.index(finding) < text.index("Threat model") < text.index("<svg")
    assert "no interval" not in finding
    assert "2 base models, too few for an interval" in report(study(2)).finding
    assert "1 stream, too few for an interval" in report(study(1)).finding


def test_without_a_control_or_a_trigger_the_finding_says_so() -> None:
    poisoned = [run for run in study() if run.config.attack.name == "accumulative"]
    said = report(poisoned).finding
    assert said.startswith("Accuracy after the trigger is lowest under accumulative with ST: 52.0 ± 5.0% (mean and 95%")
    assert "which these runs lack" in said
    clean = [run for run in study() if run.config.attack.name == "none"]
    assert "No run is poisoned; accuracy after the trigger is lowest with FREEZE: 61.0 ± 2.5%" in report(clean).finding
    never = [replace(run, summary={**run.summary, "branches": {}}) for run in poisoned]
    assert "Accuracy at the end of the stream is lowest under" in report(never).finding


def test_names_and_settings_are_text_and_nothing_else_runs() -> None:
    runs = [replace(run, path=Path("logs") / EVIL / run.path.name) for run in study()]
    hostile = {**runs[0].summary, "threat_model": f"attacker {EVIL}; defender {EVIL}"}
    runs[0] = replace(runs[0], summary=hostile, model=EVIL)
    text = html_page(report(runs, Path("logs") / EVIL))
    page = Page(text)
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert "alert" not in page.between("script")
    assert EVIL.replace("\x1b", "\ufffd") in page.between("title")  # no control characters in SVG
    (policy,) = [meta["content"] or "" for meta in page.of("meta") if "http-equiv" in meta]
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.between(tag).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for tag, attributes in page.tags:
        assert "style" not in attributes, tag  # the policy would drop it
        assert not any(name.startswith("on") for name in attributes), tag
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    links = {(attributes["href"] or "")[1:] for attributes in page.of("a")}
    assert links <= set(names)
    assert len(links) == len(runs)


def test_a_page_is_the_same_bytes_when_it_is_made_again_and_small() -> None:
    runs = study(7)
    assert len(runs) == 63
    first = html_page(report(runs))
    assert first == html_page(report(runs))
    assert len(first.encode()) < 2_000_000
    assert "<metadata" not in first


def test_every_figure_has_words_and_says_what_its_bands_are() -> None:
    found = report(study())
    pictures = {one.name: one for one in found.pictures if isinstance(one, Picture)}
    assert {"curves", "before-after", "discrepancy", "harm-retention"} <= set(pictures)
    assert "95% t-interval" in pictures["curves"].note
    page = Page(html_page(found))
    images = [attributes for attributes in page.of("svg") if attributes.get("role") == "img"]
    assert len(images) == len(pictures)
    words = page.between("desc")
    assert "ST, accumulative: H 29.0 ± 2.5 points, R 1.00" in words
    assert "CLIP, accumulative: H 14.0 ± 2.5 points, R 0.5" in words
    assert "FREEZE, accumulative: H 19.0 ± 2.5 points, R 0.00" in words
    missing = {one.name: one.reason for one in found.pictures if isinstance(one, Missing)}
    assert set(missing) == {"accuracy-exposure", "roc"}
    assert all("accupoison audit --run logs/study" in reason for reason in missing.values())


def test_detectors_stand_beside_the_discrepancy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = report(study())
    assert "detectors" not in {one.name for one in (*usual.pictures, *usual.tables)}
    runs = []
    for run in study():
        aucs = {"defense/discrepancy_auc_clean": 0.6, "defense/discrepancy_auc_noise": 0.5}
        aucs |= {tag: 0.7 + 0.01 * run.config.start.seed for tag in AUCS if "gda" in tag}
        asked = run.config.attack.name == "accumulative" and run.defense == "ST"
        runs.append(replace(run, summary={**run.summary, "means": {**run.summary["means"], **(aucs if asked else {})}}))
    found = report(runs)
    (table,) = (one for one in found.tables if one.name == "detectors")
    cells = [{key: row.cells[key] for key in ("defence", "detector", "AUC vs clean", "n")} for row in table.rows]
    assert cells == [
        {"defence": "ST", "detector": "MD", "AUC vs clean": "0.60", "n": "3 / 3"},
        {"defence": "ST", "detector": "GDA", "AUC vs clean": "0.71 ± 0.02", "n": "3 / 3"},
    ]
    (picture,) = (one for one in found.pictures if one.name == "detectors")
    assert isinstance(picture, Picture)
    assert "ST, accumulative, against noise: MD 0.50, GDA 0.71 ± 0.02" in picture.alt
    assert len(picture.tips) == 4
    files = {path.name for path in write_report(found, tmp_path, ["csv", "json", "svg", "html"])}
    assert {"report-detectors.csv", "detectors.svg"} <= files
    told = json.loads((tmp_path / "report.json").read_text())["tables"]["detectors"]
    assert [row["AUC vs noise"] for row in told] == ["0.50", "0.71 ± 0.02"]
    monkeypatch.setattr("accupoison.study.report.draw.MOST", 1)
    (crowded,) = detectors(runs)
    assert isinstance(crowded, Missing)
    assert "too many" in crowded.reason


@pytest.mark.parametrize(("seeds", "bands"), [(2, 0), (3, 9)])
def test_below_three_there_are_no_bands_but_every_run(seeds: int, bands: int) -> None:
    picture, problems = curves_picture(study(seeds), trigger="adversarial", title="")
    (axes,) = picture.figure.axes
    assert problems == []
    assert len(axes.collections) == bands
    lines = [line for line in axes.lines if line.get_gid() is not None]
    assert len(lines) == (9 if bands else 9 * seeds)


def test_the_band_is_the_t_interval_at_every_step() -> None:
    runs = [run for run in study() if "accumulative-ST" in run.path.name]
    picture, _ = curves_picture(runs, trigger="adversarial", title="")
    (band,) = picture.figure.axes[0].collections
    vertices = np.asarray(band.get_paths()[0].vertices)
    ends = vertices[np.isclose(vertices[:, 0], 10)][:, 1]
    centre, half = 52.0, 4.302653 * 2 / np.sqrt(3)  # 50, 52 and 54
    assert ends.min() == pytest.approx(centre - half, abs=1e-3)
    assert ends.max() == pytest.approx(centre + half, abs=1e-3)


def test_a_damaged_curve_is_said_and_left_out() -> None:
    runs = study()
    runs[1] = replace(runs[1], path=Path("logs/damaged"))
    said: list[str] = []
    make_report(runs, [Path("logs")], trigger="adversarial", claims=[], commands=("a", "b"), say=said.append)
    assert said == ["logs/damaged is not in the figure: it is damaged"]


def test_a_defence_has_one_colour_wherever_it_is() -> None:
    runs = study()
    alone = [run for run in runs if run.defense == "CLIP"]
    for some in (runs, alone):
        for picture in report(some).pictures:
            for series in picture.series if isinstance(picture, Picture) else ():
                assert series.color == color_of(series.runs[0].config.defense.name)
    assert len({color_of(name) for name in ("ST", "DSC", "FREEZE", "CLIP", "AT", "TRADES")}) == 6
    assert color_of("one of another package") == color_of("one of another package")


def test_sign_flips_are_all_tried() -> None:
    values = np.array([0.3, 0.1, 0.4, -0.1, 0.5])
    signs = np.array(list(itertools.product((1, -1), repeat=5)))
    exact = (abs((signs * values).mean(1)) >= abs(values.mean()) - 1e-12).mean()
    assert sign_flip(values.tolist()) == pytest.approx(exact)
    assert sign_flip([0.1, 0.2, 0.3]) == pytest.approx(2 / 8)
    assert sign_flip([0.1, 0.2]) is None
    assert sign_flip([0.1] * 20) == pytest.approx(1 / 16385, rel=0.5)  # drawn, not tried


def test_holm_corrects_as_published() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_defences_are_compared_in_pairs_on_the_same_streams() -> None:
    found = {
        (one.first.first.defense, one.second.first.defense, one.first.first.attack): one
        for one in compare(study(), "adversarial")
    }
    assert len(found) == 9  # three pairs under three attacks
    one = found["ST", "CLIP", "accumulative"]
    assert one.difference.mean == pytest.approx(-0.15)
    assert one.p == pytest.approx(0.25)
    assert found["ST", "FREEZE", "none"].trigger == "clean"
    row = next(row.cells for row in comparison_rows(study(), "adversarial") if row.cells["attack"] == "accumulative")
    assert row["p, Holm"] == "1"
    assert row["least p"] == "0.25"
    assert {row.cells["p"] for row in comparison_rows(study(2), "adversarial")} == {"not tested"}


def test_runs_that_differ_in_more_than_the_defence_are_not_compared() -> None:
    runs = [
        made_up("accumulative", "ST", {"adversarial": 0.5}),
        made_up("accumulative", "CLIP", {"adversarial": 0.5}, eps="8/255"),
    ]
    assert compare(runs, "adversarial") == []


@pytest.mark.parametrize("defended", [{"name": "AT", "direction": "ascend"}, {"name": "OURS", "threshold": 0.5}, {}])
def test_the_command_makes_the_same_run(defended: dict[str, object]) -> None:
    config = online_config(
        [
            layers.preset("online", "demo"),
            {
                "defense": defended,
                "attack": {"name": "accumulative", "eps": "8/255", "max_loss_increase": 0.5},
                "run": {"seed": 7},
                "start": {"seed": 2},
                "trigger": {"types": ["coast", "optimised"]},
                "update": {"clip_norm": "inf"},
            },
        ]
    )
    words = command(replace(made_up("none", "ST", {}), config=config, path=Path("logs/a b")), "python cli.py").split()
    assert words[:5] == ["python", "cli.py", "online", "--seed", "7"]
    assert words[-3:] == ["--out", "'logs/a", "b-again'"]
    pairs = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    again = online_config([layers.preset("online", "fresh"), layers.assignments(pairs), {"run": {"seed": 7}}])
    wanted, found = (dict(flatten(plain(one))) for one in (config, again))
    assert {key: found[key] for key in found if key not in ELSEWHERE} == {
        key: wanted[key] for key in wanted if key not in ELSEWHERE
    }


def test_the_other_forms_have_the_same_numbers(tmp_path: Path) -> None:
    found = report(study())
    files = {path.name for path in write_report(found, tmp_path, parse_formats("csv,latex,json,md,svg, pdf"))}
    rows = list(csv.DictReader((tmp_path / "report-outcomes.csv").read_text().splitlines()))
    poisoned = next(
        row for row in rows if (row["attack"], row["defence"], row["trigger"]) == ("accumulative", "ST", "adversarial")
    )
    assert poisoned["harm H"] == "29.0 ± 2.5"
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["finding"] == found.finding
    same = next(row for row in content["tables"]["outcomes"] if row["harm H"] == "29.0 ± 2.5")
    assert same["runs"] == [f"logs/study/accumulative-ST-{seed}" for seed in range(3)]
    assert content["runs"][same["runs"][1]]["base_model_seed"] == 1
    tex = (tmp_path / "report.tex").read_text()
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == len(found.tables)
    assert r"29.0 $\pm$ 2.5" in tex
    assert "![Lines of monitor accuracy" in (tmp_path / "report.md").read_text()
    assert {"curves.png", "curves.svg", "curves.pdf", "harm-retention.svg", "before-after.pdf"} <= files
    svg = (tmp_path / "curves.svg").read_text()
    assert ">updates</text>" in svg
    assert "<dc:date>" not in svg
    before = {name: (tmp_path / name).read_bytes() for name in files}
    write_report(report(study()), tmp_path, parse_formats("csv,latex,json,md,svg,pdf"))
    assert {name: (tmp_path / name).read_bytes() for name in files} == before


def test_latex_takes_no_name_for_a_command() -> None:
    assert latex(r"50% of a_b & \input{x} ±") == r"50\% of a\_b \& \textbackslash{}input\{x\} $\pm$"


@pytest.mark.parametrize(("text", "message"), [("htm", "'htm' html"), ("", "names no format"), ("md,excel", "'excel'")])
def test_formats_that_are_none_are_refused(text: str, message: str) -> None:
    with refuses(message):
        parse_formats(text)


def audited(root: Path) -> list[Run]:
    """Return runs with audits beside them: FREEZE exposes nobody, CLIP is exposed more than ST and less accurate."""
    runs = [run for run in study(root=root) if run.config.attack.name == "accumulative"]
    aucs = {"ST": 0.7, "FREEZE": 0.5, "CLIP": 0.9}
    for run in runs:
        folder = run.path / "audit" / "stream"
        folder.mkdir(parents=True)
        attacks = [
            {"attack": name, "roc": {"auc": aucs[run.defense] - less}} for name, less in (("loss", 0.0), ("weak", 0.1))
        ]
        groups = {"burn-in": attacks, "stream": attacks}
        controls = {name: {"flags": ["the blind baseline tells"] * (run.defense == "CLIP")} for name in groups}
        content = {"trigger": "adversarial", "groups": groups, "controls": controls}
        (folder.parent / "audit.json").write_text(json.dumps(content))
        (folder / "roc.csv").write_text("attack,fpr,tpr\nloss,0.0001,0.01\nloss,0.1,0.5\nloss,1,1\n")
    return runs


def test_attackers_of_several_rungs_are_a_ladder() -> None:
    runs = study()
    assert "ladder" not in {table.name for table in report(runs).tables}
    for seed in range(3):
        for defense, accuracy in (("ST", 0.4), ("FREEZE", 0.6)):
            made = made_up("statistics", defense, {"coast": 0.7, "adversarial": accuracy + 0.01 * seed}, burnin=seed)
            runs.append(replace(made, path=Path(f"statistics-{defense}-{seed}")))
    (table,) = (table for table in report(runs).tables if table.name == "ladder")
    rows = {(row.cells["defence"], row.cells["rung"]): row.cells for row in table.rows}
    assert list(rows)[:2] == [("ST", "A-unaware"), ("ST", "A3")]
    assert rows["ST", "A3"]["control"] == "a clean trigger on the clean stream"
    assert rows["ST", "A3"]["net"].startswith("40.0")  # from 80, 81, 82 to 40, 41, 42
    assert [rows[name, "A3"]["verdict"] for name in ("ST", "FREEZE")] == ["falls", "holds"]
    clipped = rows["CLIP", "A-unaware"]  # 5, 4, 3 points
    assert (clipped["bounds"], clipped["verdict"]) == ("2.3 to 5.7", "falls")


def test_exposure_and_roc_come_from_audits(tmp_path: Path) -> None:
    runs = audited(tmp_path)
    (runs[0].path / "audit" / "audit.json").write_text("{}")
    said: list[str] = []
    audits = read_audits(runs, said.append)
    assert len(audits) == 8
    assert "audit.json" in said[0]
    assert strongest(audits) == "loss"
    made = report(audited_again(runs))
    assert made.finding.endswith(" FLAGGED in 3 of 9 audits: the blind baseline tells.")
    pictures = {one.name: one for one in made.pictures if isinstance(one, Picture)}
    words = pictures["accuracy-exposure"].alt
    assert "FREEZE, accumulative: AUC 0.500, accuracy 62.0 ± 5.0 %, on the front" in words
    assert "CLIP, accumulative: AUC 0.900, accuracy 67.0 ± 5.0 %, on the front" in words
    assert "ST, accumulative: AUC 0.700, accuracy 52.0 ± 5.0 %;" in words
    assert "CLIP, accumulative: AUC 0.900" in pictures["roc"].alt
    curve = next(line for line in pictures["roc"].figure.axes[0].lines if line.get_gid() is not None)
    assert np.asarray(curve.get_xydata()).tolist() == [[0.1, 0.5], [1.0, 1.0]]


def audited_again(runs: Sequence[Run]) -> Sequence[Run]:
    """Mend the first audit."""
    (runs[0].path / "audit" / "audit.json").write_text((runs[3].path / "audit" / "audit.json").read_text())
    return runs


def test_exposure_comes_from_pooled_audits_where_there_are_no_others(tmp_path: Path) -> None:
    runs = [run for run in study() if run.config.attack.name == "accumulative"]
    auc = Estimate(0.7, 0.1, 3, 3, "burn-ins", (0.6, 0.7, 0.8))
    kinds = itertools.product(named(runs), (None, 1), SCORES)
    pooled = [PooledAuc(name, "stream", recency, score, auc, 9) for name, recency, score in kinds]
    write_pooled(tmp_path / "recency", pooled, [{"experiment": "a"}])
    pictures = {one.name: one for one in report(runs, tmp_path / "study").pictures}
    exposed = pictures["accuracy-exposure"]
    assert isinstance(exposed, Picture)
    assert "ST, accumulative: AUC 0.700 ± 0.100, accuracy 52.0 ± 5.0 %" in exposed.alt
    assert isinstance(pictures["roc"], Missing)
