"""What `make build` produces from the template, for one Python version and one architecture."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from lab import ROOT
from lab.servers import Unavailable, processes
from release.pins import plain, read

SOURCES = ("reaper", "extension")
AT_HAND = f"{sys.version_info.major}.{sys.version_info.minor}"
# As Lambda names architectures
HOST = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
SAM = Path(sys.executable).parents[1] / "sam" / "bin" / "sam"


@dataclass(frozen=True)
class Folder:
    """Code as Lambda unpacks it: a folder that stands on PYTHONPATH."""

    path: Path

    @property
    def all_files(self) -> set[str]:
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()}

    @property
    def files(self) -> set[str]:
        """The files that `sam build` wrote: all but the compiled modules."""
        return {file for file in self.all_files if "__pycache__" not in Path(file).parts}

    @property
    def installed(self) -> dict[str, str]:
        """The packages that pip unpacked into it, with their versions."""
        return {plain(found.name): found.version for found in distributions(path=[str(self.path)])}

    @property
    def installed_files(self) -> set[str]:
        """The files that those packages list as their own."""
        return {
            str(file)
            for found in distributions(path=[str(self.path)])
            for file in found.files or ()
        }

    @property
    def machines(self) -> set[str]:
        """The processor architectures that its binaries are for."""
        return {_machine(self.path / file) for file in self.files if ".so" in Path(file).suffixes}

    @property
    def size(self) -> int:
        return sum((self.path / file).stat().st_size for file in self.all_files)


@dataclass(frozen=True)
class Build:
    """A finished build: one folder for each resource of the template that was built."""

    python: str
    architecture: str
    folder: Path

    @property
    def function(self) -> Folder:
        return Folder(self.folder / "ReaperFunction")

    @property
    def client_layer(self) -> Folder:
        return Folder(self.folder / "ClientLayer" / "python")


def build(python: str, architecture: str) -> Build:
    """Build a copy of the sources; raise Unavailable if a program that this needs is missing."""
    if not SAM.exists():
        raise Unavailable(f"the SAM CLI is not in {SAM.parent}; `make test` installs it")
    if (python, architecture) == ("3.11", "arm64"):
        raise Unavailable(
            "psycopg's wheels need a later glibc than Lambda has there; take a later Python"
        )
    programs = _interpreter(python).parent
    folder = Path(
        tempfile.mkdtemp(prefix=f"build-{python}-{architecture}-", dir=processes.run().folder)
    )
    _copy_sources(folder)
    done = subprocess.run(
        [
            *(
                str(SAM),
                "build",
                "--parallel",
                "--template",
                "template.yaml",
                "--build-dir",
                "built",
            ),
            *("--parameter-overrides", f"Runtime=python{python}", f"Architecture={architecture}"),
        ],
        cwd=folder,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
            "SAM_CLI_TELEMETRY": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"sam build for python{python} on {architecture} failed:\n{done.stderr[-3000:]}"
        )
    _compile(programs, folder / "built")
    return Build(python, architecture, folder / "built")


def _compile(programs: Path, built: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "release", "compiled", str(built)],
        cwd=ROOT,
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or done.stdout.strip():
        raise RuntimeError(f"compiling {built.name} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def _copy_sources(folder: Path) -> None:
    """The tree as it is committed, and a bytecode cache, as any tree in use has them."""
    for name in SOURCES:
        # certs/ holds the operator's CA bundle where there is one
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "certs")
        )
    (folder / "reaper" / "__pycache__").mkdir()
    (folder / "reaper" / "__pycache__" / "module.cpython-313.pyc").touch()
    shutil.copy(ROOT / "template.yaml", folder)


def _interpreter(python: str) -> Path:
    """A `python3.X` with pip; SAM takes no other name, and a pyenv shim may refuse to run."""
    for place in _places(python):
        probe = [str(place), "-c", "import pip, sys; print(sys.executable)"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if (
            not done.returncode
            and (found := Path(done.stdout.strip()).with_name(f"python{python}")).exists()
        ):
            return found
    raise Unavailable(f"no python{python} with pip, neither on PATH nor by `pyenv prefix {python}`")


def _places(python: str) -> Iterator[Path]:
    if python == AT_HAND:
        yield Path(sys.executable)
    if found := shutil.which(f"python{python}"):
        yield Path(found)
    if pyenv := shutil.which("pyenv"):
        done = subprocess.run(
            [pyenv, "prefix", python], capture_output=True, text=True, check=False
        )
        if not done.returncode:
            yield Path(done.stdout.strip()) / "bin" / f"python{python}"


def pinned(requirements: Path) -> dict[str, str]:
    """The requirements in a file and in the files that it includes."""
    return {pin.name: pin.version for pin in read(requirements)}


def _machine(binary: Path) -> str:
    """The architecture that an ELF header names; see elf(5), e_machine."""
    header = binary.read_bytes()[:20]
    assert header.startswith(b"\x7fELF"), f"{binary.name} is no Linux binary"
    return {0x3E: "x86_64", 0xB7: "arm64"}[int.from_bytes(header[18:20], "little")]
