"""What `make build` makes: the package and its pinned dependencies, for the right machine, and
nothing else.
"""

from __future__ import annotations

from importlib.util import source_hash
from pathlib import Path

import pytest

from lab import ROOT
from lab.artifact import AT_HAND, HOST, Build, Folder, pinned

from .conftest import Builds

MB = 1024 * 1024


@pytest.fixture(params=[("3.13", "x86_64"), ("3.13", "arm64"), (AT_HAND, HOST)], ids="-".join)
def built(request: pytest.FixtureRequest, builds: Builds) -> Build:
    return builds(*request.param)


def sources(folder: str) -> set[str]:
    """The package's files as they are to be shipped."""
    files = (ROOT / folder).rglob("*")
    kept = (
        file for file in files if file.is_file() and not {"__pycache__", "certs"} & {*file.parts}
    )
    return {str(file.relative_to(ROOT)) for file in kept}


def check(folder: Folder, package: str) -> None:
    own = sources(package)
    assert folder.files == own | folder.installed_files
    assert folder.installed == pinned(ROOT / package / "requirements.txt")
    assert "boto3" not in folder.installed, "it comes with Lambda"
    assert not [
        file for file in own if not file.endswith((".py", "/requirements.txt")) or "test" in file
    ]


def test_the_function_is_the_package_and_what_it_needs(built: Build) -> None:
    """Every file is the package's own or one that a pinned dependency says it brought: no tests, no
    README, no boto3, no caches.
    """
    check(built.function, "reaper")


def test_the_layer_is_the_client_and_what_it_needs(built: Build) -> None:
    """`python/reaper/client`, the drivers, nothing else of the reaper and nothing else at all."""
    check(built.client_layer, "reaper/client")


def test_modules_are_compiled_for_the_python_that_runs_them(built: Build) -> None:
    """Lambda cannot write a cache: it is there, of this Python alone, bound to each source by its
    hash and naming the source as Lambda unpacks it. A cache that was in the tree is not.
    """
    for folder, unpacked_at in (
        (built.function, "/var/task/"),
        (built.client_layer, "/opt/python/"),
    ):
        modules = {file for file in folder.files if file.endswith(".py")}
        tag = f"cpython-{built.python.replace('.', '')}"
        assert folder.all_files - folder.files == {cache_from_source(file, tag) for file in modules}
        for module in modules:
            compiled = (folder.path / cache_from_source(module, tag)).read_bytes()
            assert int.from_bytes(compiled[4:8], "little") == HASH_BASED | CHECKED
            # Each version hashes with a key of its own
            if built.python == AT_HAND:
                assert compiled[8:16] == source_hash((folder.path / module).read_bytes())
            assert f"{unpacked_at}{module}".encode() in compiled
            assert str(folder.path).encode() not in compiled


def cache_from_source(file: str, tag: str) -> str:
    path = Path(file)
    return str(path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc")


# PEP 552
HASH_BASED, CHECKED = 0b01, 0b10


def test_binaries_are_for_the_machine_and_the_python(built: Build) -> None:
    """A build for arm64 on another machine holds arm64 binaries, or the first import fails after
    the deployment.
    """
    for folder in (built.function, built.client_layer):
        assert folder.machines == {built.architecture}
        (driver,) = (
            file for file in folder.files if file.startswith("psycopg_binary/_psycopg.cpython")
        )
        assert f"cpython-{built.python.replace('.', '')}-" in driver


def test_sizes(built: Build) -> None:
    """Two drivers and Powertools: 17 MB. boto3 alone would add 30 MB, a second TLS library 10:
    neither slips in.
    """
    assert 10 * MB < built.client_layer.size < 17 * MB
    assert built.client_layer.size < built.function.size < 23 * MB
