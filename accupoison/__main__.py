"""``python -m accupoison``."""

from accupoison.cli import main

main()
