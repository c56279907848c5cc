"""One colour for each defence, in every figure of every report."""

from hashlib import sha256

COLORS = {
    "ST": "#d55e00",
    "DSC": "#0072b2",
    "FREEZE": "#767676",
    "CLIP": "#009e73",
    "AT": "#c28500",
    "TRADES": "#cc79a7",
    "MIXUP": "#3d9bd9",
    "NLL-STATIC": "#6f5fd0",
    "NLL-DYNAMIC": "#aa4499",
    "MEDBN": "#117733",
    "EMA": "#882255",
    "RDUMB": "#44546a",
    "STAT-TRUST": "#5c7a29",
    "TRUST-PROJ": "#1f6f8b",
    "GATE": "#8c564b",
    "STACK": "#9c1c3c",
    "STACK-CURRENT": "#332288",
}
"""After Okabe and Ito, and Tol, for readers who are colour-blind; darker where the original is pale on white."""
OTHERS = ("#94762c", "#4f8f8b", "#c05c6b", "#8a6fb0", "#6b8e23", "#b0552f")
STYLES = {"none": "--", "noise": ":"}
"""How lines of these attacks are drawn; the lines of all others are solid."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Tell lines of one colour and style apart."""


def color_of(defense: str) -> str:
    """Return a defence's colour by its registered name, the same in whatever company."""
    return COLORS.get(defense) or OTHERS[sha256(defense.encode()).digest()[0] % len(OTHERS)]


def style_of(attack: str) -> str:
    """Return the style of a line by the attack's registered name."""
    return STYLES.get(attack, "-")
