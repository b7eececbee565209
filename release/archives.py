"""Archives for Lambda that are the same bytes whenever and wherever they are made of the same
files.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from release.bill import bill
from release.packages import shipped
from release.pins import ROOT

# The certificates of RDS are as AWS has them on that day, so they are not of this commit; `make
# deploy` fetches them.
CERTIFICATES = ("reaper", "certs")
# The first that a ZIP file can say, and the one that SAM writes
_EPOCH = (1980, 1, 1, 0, 0, 0)


def publish(build: Path, into: Path, architecture: str) -> list[Path]:
    """Write what a release publishes for one processor, out of what `sam build` made, with the list
    of its digests.
    """
    into.mkdir(parents=True, exist_ok=True)
    function, layer = build / "ReaperFunction", build / "ClientLayer"
    made = [
        pack(function, into / f"reaper-function-{architecture}.zip"),
        pack(layer, into / f"reaper-client-{architecture}.zip"),
        pack(ROOT / "extension", into / "reaper-extension.zip"),
        into / f"reaper-{architecture}.cdx.json",
    ]
    made[-1].write_text(bill(shipped(function)), encoding="utf-8")
    sums = into / f"SHA256SUMS-{architecture}"
    sums.write_text("".join(f"{digest(path)}  {path.name}\n" for path in made), encoding="utf-8")
    return [*made, sums]


def pack(folder: Path, archive: Path) -> Path:
    """A ZIP file with the folder's files in the order of their names, of no time, and with one of
    two permissions.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, path in sorted(_files(folder)):
            info = zipfile.ZipInfo(name, _EPOCH)
            # Unix, or nobody would ask for permissions
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | _mode(path)) << 16
            packed.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[:2] != CERTIFICATES and not _is_stray(name):
            yield name.as_posix(), path


def _is_stray(name: Path) -> bool:
    """A compiled module that is not where Python looks for it."""
    return name.suffix == ".pyc" and name.parent.name != "__pycache__"


def _mode(path: Path) -> int:
    """Whoever unpacks it may read it, whatever the umask was here; what could be run can be."""
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
