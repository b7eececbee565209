"""The packages that are shipped beside our own code, as their own metadata tells of them."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path

from release.pins import FUNCTION, plain, read


@dataclass(frozen=True)
class Package:
    """One of the pinned packages, and the shared libraries that it brings along."""

    name: str
    version: str
    licence: str
    needs: frozenset[str] = field(default_factory=frozenset)
    # File name and SHA-256
    libraries: tuple[tuple[str, str], ...] = ()


def shipped(folder: Path | None = None) -> list[Package]:
    """Those that the requirements pin, found in the folder of a build or, without one, in this
    environment.

    Raises LookupError where one is missing or of another version: then this is no list of what is
    shipped.
    """
    path = sys.path if folder is None else [str(folder)]
    found = {plain(distribution.name): distribution for distribution in distributions(path=path)}
    pins = {pin.name: pin.version for pin in read(FUNCTION)}
    for name, version in pins.items():
        if name not in found or found[name].version != version:
            has = found[name].version if name in found else "none"
            raise LookupError(
                f"{name} {version} is pinned, and there is {has}; install what "
                f"requirements-dev.txt says"
            )
    return [_package(found[name], {*pins} - {name}) for name in sorted(pins)]


def _package(found: Distribution, others: set[str]) -> Package:
    needs = {plain(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in found.requires or ()}
    return Package(
        name=plain(found.name),
        version=found.version,
        licence=_licence(found),
        needs=frozenset(needs & others),
        libraries=tuple(sorted(_libraries(found))),
    )


def _licence(found: Distribution) -> str:
    """An SPDX expression. Raises LookupError where there is none, which is a question for a
    person.
    """
    metadata = found.metadata.json
    told = str(metadata.get("license_expression") or metadata.get("license") or "")
    if not re.fullmatch(r"[\w.+-]+( (AND|OR|WITH) [\w.+-]+)*", told):
        raise LookupError(
            f"{found.name} tells no licence in short, but {told[:60]!r}; read its files"
        )
    return told


def _libraries(found: Distribution) -> Iterator[tuple[str, str]]:
    """Libraries in C within a wheel, which have versions and weaknesses of their own."""
    for file in found.files or ():
        if file.parent.name.endswith(".libs"):
            yield file.name, hashlib.sha256(Path(str(file.locate())).read_bytes()).hexdigest()
