"""The console script, which says in one line what is missing where the command line's own extra is
not installed.
"""

from __future__ import annotations

import sys

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line."""
    try:
        from reaper import cli
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        sys.exit(
            f"reaper: {package} is missing, as the command line needs it; pip install 'reaper[cli]'"
        )
    cli.main()


if __name__ == "__main__":
    main()
