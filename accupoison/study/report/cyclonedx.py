"""A report as a CycloneDX 1.7 bill of materials: model cards, and what is claimed of them on which evidence."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import quote

import accupoison
from accupoison.records.files import reading
from accupoison.records.tags import METRICS, SUMMARY, THREAT
from accupoison.runs.burnin import FINAL
from accupoison.study.collect import Run, read_threat
from accupoison.study.groups import Group, label_of
from accupoison.study.outcomes import Estimate, Pair, estimate, yardstick
from accupoison.study.report.audits import AUDIT
from accupoison.study.report.finding import how_sure
from accupoison.study.report.study import Report
from accupoison.study.tables import outcomes, over

Json = dict[str, Any]
FILES = (METRICS, SUMMARY, THREAT, f"audit/{AUDIT}")
"""What is evidence of a run, where it is there."""
SHA256 = re.compile(r"[0-9a-f]{64}")
STUDY, ASSESSOR = "study", "assessor"
SHARED = ("start", "before", "before, re-est.")
"""Outcomes that all triggers of a run have in common."""


def bill_of_materials(report: Report) -> Json:
    """Return a report as the content of a CycloneDX 1.7 file; the same runs give the same bytes.

    Each base model, each data set and each experiment, which is what a base model becomes on a stream, is a component.
    Experiments have a model card: accuracies and membership AUC with their intervals, and the threat model. Claims
    refer to runs as evidence, whose files are named with their digests.

    Raises:
        InputError: A file of a run, or the threat model of a burn-in, cannot be read.
    """
    runs = [run for one in report.experiments for run in one.runs]
    clean = yardstick(runs)
    cards = {f"model-{k}": one for k, one in enumerate(report.experiments, start=1)}
    claims = [{"bom-ref": f"claim-{k}", **one} for k, one in enumerate(_claims(report, cards), start=1)]
    models = [_experiment(ref, one, report, clean) for ref, one in cards.items()]
    bom: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "version": 1,
        "metadata": {
            "tools": {"components": [_component("application", "accupoison", version=accupoison.__version__)]},
            "component": {
                **_component("data", report.title, STUDY),
                "properties": [{"name": "accupoison:command", "value": report.remake}],
            },
        },
        "components": [*models, *_base_models(report, runs), *_data(runs)],
        "dependencies": [
            {"ref": ref, "dependsOn": list(dict.fromkeys(d for run in one.runs for d in (_base(run), _set(run))))}
            for ref, one in cards.items()
        ],
        "declarations": {
            "assessors": [{"bom-ref": ASSESSOR, "thirdParty": False, "organization": {"name": "who ran accupoison"}}],
            "attestations": [
                {
                    "summary": f"{report.finding} Measured by simulation; no conformance to a standard is stated.",
                    "assessor": ASSESSOR,
                    "map": [{"claims": [claim["bom-ref"] for claim in claims]}],
                }
            ],
            "claims": claims,
            "evidence": [_evidence(run) for run in runs],
        },
    }
    digest = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
    return {**bom, "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, digest).urn}


def _component(kind: str, name: str, ref: str = "", *, digest: str = "", version: str = "") -> Json:
    hashes = [{"alg": "SHA-256", "content": digest}] if SHA256.fullmatch(digest) else []
    optional = {"bom-ref": ref, "version": version, "hashes": hashes}
    return {"type": kind, "name": name, **{key: value for key, value in optional.items() if value}}


def _base(run: Run) -> str:
    return f"base-model-{run.burnin}"


def _set(run: Run) -> str:
    return f"data-{run.config.data.name}-{run.data}"


def _data(runs: list[Run]) -> list[Json]:
    sets = {_set(run): run for run in runs}
    return [_component("data", run.config.data.name, ref, digest=run.data) for ref, run in sets.items()]


def _base_models(report: Report, runs: list[Run]) -> list[Json]:
    """Return the base models, those of burn-ins that are at hand with their threat model."""
    folders = [folder for path in report.paths for folder in (path, *sorted(path.glob("*")))]
    folders += [Path(run.config.start.checkpoint).parent for run in runs if run.config.start.checkpoint]
    threats = {}
    for folder in dict.fromkeys(folders):
        if (folder / FINAL).is_file() and (threat := read_threat(folder)) is not None:
            threats[_digest(folder / FINAL)] = folder, threat
    models = []
    for ref, run in {_base(run): run for run in runs}.items():
        model = _component("machine-learning-model", f"{run.model or 'model'}, base model", ref, digest=run.burnin)
        card: Json = {"bom-ref": f"card-{ref}", "modelParameters": _parameters(run)}
        if run.burnin in threats:
            folder, threat = threats[run.burnin]
            model["externalReferences"] = [_reference(folder / THREAT)]
            card["considerations"] = _considerations([threat], [])
        models.append({**model, "modelCard": card})
    return models


def _parameters(run: Run) -> Json:
    named = {"modelArchitecture": run.model} if run.model else {}
    return {
        "approach": {"type": "supervised"},
        "task": "classification",
        **named,
        "datasets": [{"ref": _set(run)}],
    }


def _experiment(ref: str, experiment: Group, report: Report, clean: Mapping[Pair, Run]) -> Json:
    label = label_of(experiment, report.experiments)
    runs = experiment.runs
    references = [_reference(run.path / THREAT) for run in runs if (run.path / THREAT).is_file()]
    threats = [report.threats[run.path] for run in runs]
    burnins = len({run.burnin for run in runs})
    limits = [f"A simulation: {len(runs)} runs of {burnins} base models on {experiment.first.config.data.name}."]
    limits += [f"{experiment.diverged} runs diverged."] if experiment.diverged else []
    card = {
        "bom-ref": f"card-{ref}",
        "modelParameters": _parameters(experiment.first),
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(experiment, report, clean))},
        "considerations": _considerations(threats, limits, experiment.first.defense),
    }
    commands = [{"name": "accupoison:command", "value": report.commands[run.path]} for run in runs]
    model = _component("machine-learning-model", label, ref)
    return {**model, "modelCard": card, "externalReferences": references, "properties": commands}


def _considerations(threats: list[Mapping[str, Any]], limits: list[str], defense: str = "") -> Json:
    """Return threat models as limits of what was tried, and their ids as risks."""
    lines = dict.fromkeys(f"Threat model: {threat['line']}" for threat in threats)
    names = {one["id"]: f"{one['id']} {one['name']}" for threat in threats for one in threat["ids"]}
    defended = {"mitigationStrategy": f"defence {defense}"} if defense not in ("", "ST") else {}
    return {
        "technicalLimitations": [*limits, *lines],
        "ethicalConsiderations": [{"name": name, **defended} for name in names.values()],
    }


def _metrics(experiment: Group, report: Report, clean: Mapping[Pair, Run]) -> Iterator[Json]:
    """Yield each outcome as a fraction, and the AUC of each membership attack."""
    for k, trigger in enumerate(experiment.first.config.trigger.types):
        for title, value in outcomes(trigger, clean).items():
            found = over(experiment, value)
            if title in SHARED and not k and found is not None:
                yield _metric(f"accuracy, {title}", found)
            elif title not in SHARED and found is not None:
                kind = title if title.startswith(("harm", "H,", "trigger")) else f"accuracy, {title}"
                yield _metric(kind, found, f"trigger {trigger}")
    for name, attack, found in _memberships(experiment, report):
        yield _metric("membership inference AUC", found, f"{name} members, attack {attack}")


def _metric(kind: str, found: Estimate, part: str = "") -> Json:
    metric: Json = {"type": kind, "value": f"{found.mean:.6g}"} | ({"slice": part} if part else {})
    if isfinite(found.half):
        ends = (("lowerBound", found.mean - found.half), ("upperBound", found.mean + found.half))
        metric["confidenceInterval"] = {name: f"{end:.6g}" for name, end in ends}
    return metric


def _memberships(experiment: Group, report: Report) -> Iterator[tuple[str, str, Estimate]]:
    """Yield the audited group, the membership attack and its AUC over the audited runs of an experiment."""
    seen = [(run.burnin, report.audits[run.path]) for run in experiment.runs if run.path in report.audits]
    for name in dict.fromkeys(audit.group for _, audit in seen):
        audits = [(burnin, audit) for burnin, audit in seen if audit.group == name]
        for attack in audits[0][1].aucs:
            found = estimate((burnin, audit.aucs.get(attack)) for burnin, audit in audits)
            if found is not None:
                yield name, attack, found


def _claims(report: Report, cards: Mapping[str, Group]) -> Iterator[Json]:
    """Yield the finding, what the grid claims with its verdict, and the accuracy and exposure of each experiment."""
    everything = [run for one in report.experiments for run in one.runs]
    yield _claim(STUDY, report.finding, "", everything)
    for row in (row for table in report.tables if table.name == "claims" for row in table.rows):
        yield _claim(STUDY, f"{row.cells['claim']}: {row.cells['net of coast']}", "", row.runs)
    for ref, one in cards.items():
        for trigger in one.first.config.trigger.types:
            found = over(one, lambda run, trigger=trigger: run.after(trigger))  # type: ignore[misc]
            if found is not None:
                said = f"Accuracy after the trigger {trigger} is {found.text(1, 100)} %."
                yield _claim(ref, said, how_sure(found), one.runs)
        audited = [run for run in one.runs if run.path in report.audits]
        if strongest := max(_memberships(one, report), key=lambda entry: entry[2].mean, default=None):
            name, attack, found = strongest
            said = f"Of the membership attacks, {attack} tells {name} members best: AUC {found.text(3)}."
            yield _claim(ref, said, how_sure(found), audited)


def _claim(target: str, predicate: str, reasoning: str, runs: Sequence[Run]) -> Json:
    reason = {"reasoning": reasoning} if reasoning else {}
    return {"target": target, "predicate": predicate, **reason, "evidence": [_evidence_ref(run) for run in runs]}


def _evidence_ref(run: Run) -> str:
    return f"evidence-{run.path.as_posix()}"


def _evidence(run: Run) -> Json:
    """Return the files of a run, each with its digest as ``sha256sum`` prints it."""
    files = [name for name in FILES if (run.path / name).is_file()]
    data = [
        {
            "name": name,
            "contents": {
                "url": _url(run.path / name),
                "attachment": {"contentType": "text/plain", "content": f"{_digest(run.path / name)}  {name}"},
            },
        }
        for name in files
    ]
    return {"bom-ref": _evidence_ref(run), "propertyName": "accupoison:run", "data": data}


def _reference(threat: Path) -> Json:
    digest = {"alg": "SHA-256", "content": _digest(threat)}
    return {"type": "threat-model", "url": _url(threat), "hashes": [digest]}


def _url(path: Path) -> str:
    return quote(os.fsencode(path.as_posix()))


def _digest(path: Path) -> str:
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
