"""From finished runs to tables with intervals and a figure of the curves."""
