"""Run accupoison from a checkout: ``python cli.py COMMAND``."""

from accupoison.cli import main

if __name__ == "__main__":
    main()
