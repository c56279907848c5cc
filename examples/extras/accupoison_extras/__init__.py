"""An attack, a defence, a model and a data set for accupoison."""
