"""``python -m accupoison``."""

import sys


def main() -> None:
    """Run the command line; an interruption while it is still being loaded ends it without a traceback."""
    try:
        from accupoison.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
