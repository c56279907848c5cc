"""What others call an attack: ids of NIST AI 100-2, MITRE ATLAS and OWASP, and when each applies."""

from collections.abc import Collection, Iterable

SOURCES = {
    "NISTAML.": ("NIST AI 100-2", "E2025"),
    "AML.": ("MITRE ATLAS", "4.5.2"),
    "ML": ("OWASP Machine Learning Security Top 10", "2023"),
}
"""Where ids come from and of which version, by how they begin."""
NAMES = {
    "NISTAML.01": "Availability Violations",
    "NISTAML.011": "Model Poisoning (availability)",
    "NISTAML.012": "Clean-label Poisoning",
    "NISTAML.013": "Data Poisoning",
    "NISTAML.02": "Integrity Violations",
    "NISTAML.021": "Clean-label Backdoor",
    "NISTAML.023": "Backdoor Poisoning",
    "NISTAML.024": "Targeted Poisoning",
    "NISTAML.026": "Model Poisoning (integrity)",
    "NISTAML.03": "Privacy Compromises",
    "NISTAML.033": "Membership Inference",
    "NISTAML.05": "Supply Chain Attacks",
    "NISTAML.051": "Model Poisoning (supply chain)",
    "AML.T0010": "ML Supply Chain Compromise",
    "AML.T0018.000": "Poison ML Model",
    "AML.T0020": "Poison Training Data",
    "AML.T0024.000": "Infer Training Data Membership",
    "AML.T0031": "Erode ML Model Integrity",
    "ML02:2023": "Data Poisoning Attack",
    "ML04:2023": "Membership Inference Attack",
    "ML06:2023": "AI Supply Chain Attacks",
    "ML08:2023": "Model Skewing",
}
"""Names as the sources give them; where NIST has the same name thrice, with the objective."""
WIRE, CODE = "wire", "training code"
STREAM, BURNIN = "stream", "burn-in"
KEPT, ASKED = "labels kept", "membership asked"
MEMBERSHIP = "NISTAML.03 NISTAML.033 AML.T0024.000 ML04:2023"
RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("availability",), "NISTAML.01 AML.T0031"),
    (("availability", WIRE), "NISTAML.013"),
    (("availability", WIRE, KEPT), "NISTAML.012"),
    (("availability", CODE), "NISTAML.011"),
    (("targeted",), "NISTAML.02 NISTAML.024"),
    (("targeted", WIRE, KEPT), "NISTAML.012"),
    (("targeted", CODE), "NISTAML.026"),
    (("backdoor",), "NISTAML.02 NISTAML.023 AML.T0018.000"),
    (("backdoor", KEPT), "NISTAML.021"),
    (("backdoor", CODE), "NISTAML.026"),
    (("privacy",), MEMBERSHIP),
    (("privacy", WIRE), "NISTAML.013"),
    (("privacy", WIRE, KEPT), "NISTAML.012"),
    ((ASKED,), MEMBERSHIP),
    ((WIRE,), "AML.T0020 ML02:2023"),
    ((WIRE, STREAM), "ML08:2023"),
    ((CODE,), "NISTAML.05 NISTAML.051 AML.T0010 AML.T0018.000 ML06:2023"),
)
"""Ids that apply where all of these hold: an objective of :data:`accupoison.attacks.base.GOALS`, the channel, the
process that is poisoned, the label limit, and whether somebody asks the model for membership."""
NOTE = (
    "NIST AI 100-2 E2025 has no term for a trigger batch: a batch that is learnt like any other and exploits the state "
    "that the poison before it has accumulated. It is no trigger of a backdoor, which is a pattern in a query. Nor has "
    "it an id for poisoning that serves membership inference, which has those of its means and of its end."
)


def ids(facts: Collection[str], declared: Iterable[str] = ()) -> list[dict[str, str]]:
    """Return the ids that apply, in the order of their sources, each with its name, source, version and reason.

    Args:
        facts: What holds, in the words of :data:`RULES`.
        declared: Further ids, which an attack claims for itself.
    """
    reasons: dict[str, str] = {}
    for needed, found in RULES:
        if set(needed) <= set(facts):
            for one in found.split():
                reasons.setdefault(one, ", ".join(needed))
    for one in declared:
        reasons.setdefault(one, "the attack says so")
    starts = list(SOURCES)
    return [
        {"id": one, "name": NAMES.get(one, ""), "source": source, "version": version, "because": reasons[one]}
        for one in sorted(reasons, key=lambda one: (starts.index(_start(one)) if _start(one) else len(starts), one))
        for source, version in [SOURCES.get(_start(one), ("", ""))]
    ]


def _start(one: str) -> str:
    return next((start for start in SOURCES if one.startswith(start)), "")
