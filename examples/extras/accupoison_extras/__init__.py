"""An attack, a defence, a release, a model and a data set for accupoison."""
