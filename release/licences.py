"""The licences of what is shipped, as the short list that `make licences` writes."""

from __future__ import annotations

from collections.abc import Sequence

from release.packages import Package
from release.pins import ROOT

LIST = ROOT / "release" / "LICENCES.txt"
_HEAD = """\
The function and the layer bring these packages along, unchanged, each with its licence's text in
its .dist-info. Within psycopg-binary are libraries in C, such as libpq and OpenSSL, with licences
of their own; `make sbom` lists them. Written by `make licences` from the packages' own metadata.
The reaper itself is under the MIT licence.

"""


def text(packages: Sequence[Package]) -> str:
    """The list: name, version, and the licence as SPDX writes it."""
    rows = [(package.name, package.version, package.licence) for package in packages]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return _HEAD + "\n".join(lines) + "\n"
