"""Run accupoison from a checkout: ``python cli.py COMMAND``."""

from accupoison.__main__ import main

if __name__ == "__main__":
    main()
