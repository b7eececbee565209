"""What is shipped is known to the byte: pins with hashes, licences, the bill of materials, archives
that repeat.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT
from lab.artifact import AT_HAND, HOST, Build, build
from release import archives, licences, pins
from release.bill import bill
from release.packages import shipped

FILES = [pins.LAYER, pins.FUNCTION]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_package_is_pinned_with_its_hashes(path: Path) -> None:
    """One version, the hashes of its files, and no word of where it comes from: pip refuses
    whatever is not these.
    """
    found = pins.read(path)
    names = [pin.name for pin in found]
    assert len(set(names)) == len(names)
    for pin in found:
        assert len(pin.hashes) >= 2, f"{pin.name} has a wheel and a source archive at least"
        assert len(set(pin.hashes)) == len(pin.hashes)
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pin.hashes)
    # psycopg's part in C has a wheel for each Python, processor and system
    assert len(next(pin.hashes for pin in found if pin.name == "psycopg-binary")) > 20
    assert "://" not in path.read_text()
    assert not re.search(r"^\s*--(?!hash=)", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "line", ["psycopg", "psycopg>=3", "--index-url somewhere", "psycopg==3 --hash=md5:ff"]
)
def test_what_is_no_pin_is_refused(line: str, tmp_path: Path) -> None:
    """No other kind of line comes into these files by mistake."""
    (tmp_path / "requirements.txt").write_text(f"# a comment\n{line}\n")
    with pytest.raises(ValueError, match="a line is NAME==VERSION and its hashes"):
        pins.read(tmp_path / "requirements.txt")


def test_another_file_is_refused(tmp_path: Path) -> None:
    """Whoever can put a file of the right name and version before pip has it refused by what is
    pinned.
    """
    (pin,) = (pin for pin in pins.read(pins.FUNCTION) if pin.name == "jmespath")
    info = f"{pin.name}-{pin.version}.dist-info"
    with zipfile.ZipFile(tmp_path / f"{pin.name}-{pin.version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {pin.name}\nVersion: {pin.version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    (tmp_path / "requirements.txt").write_text(str(pin))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "download",
        "--no-index",
        "--find-links",
        str(tmp_path),
    ]
    command += ["--dest", str(tmp_path / "there"), "-r", str(tmp_path / "requirements.txt")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there").exists() or not [*(tmp_path / "there").iterdir()]


def test_what_is_tested_is_what_is_shipped() -> None:
    """The pins are those of the development environment, and the roots are the package's own
    dependencies.
    """
    tested = {pin.name: pin.version for pin in pins.read(pins.VERSIONS)}
    assert {pin.name: pin.version for pin in pins.read(pins.FUNCTION)}.items() <= tested.items()
    roots = {root for asked in pins.ROOTS.values() for root in asked} - {"typing-extensions"}
    assert roots == {re.split(">=", wanted)[0] for wanted in PROJECT["dependencies"]}


def test_the_files_are_as_make_pins_writes_them() -> None:
    """Nobody has edited them by hand: read and written again they are the same."""
    layer = pins.read(pins.LAYER)
    only = [pin for pin in pins.read(pins.FUNCTION) if pin not in layer]
    for path, found in ((pins.LAYER, layer), (pins.FUNCTION, only)):
        assert path.read_text() == pins.HEADS[path] + "".join(map(str, found))


def test_the_licences_are_listed() -> None:
    """The list is what the installed packages' own metadata says, and none of them forbids what is
    done here.
    """
    packages = shipped()
    assert licences.LIST.read_text() == licences.text(packages)
    assert {package.licence for package in packages} <= {"MIT", "PSF-2.0", "LGPL-3.0-only"}


def test_a_bill_of_another_version_is_not_written(tmp_path: Path) -> None:
    """Where what is pinned is not what is there, that is said in place of a list that would be
    wrong.
    """
    with pytest.raises(LookupError, match=r"is pinned, and there is none"):
        shipped(tmp_path)


def test_the_bill_of_materials(artifact: Build) -> None:
    """CycloneDX, valid and complete: every package of the artifact with version, licence and what
    it needs, and every library within one, by its SHA-256; the same each time.
    """
    folder = artifact.function
    text = bill(shipped(folder.path))
    assert text == bill(shipped(folder.path))
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", found["serialNumber"]
    )
    assert found["metadata"]["component"]["version"] == PROJECT["version"]
    components: list[dict[str, Any]] = found["components"]
    assert {component["name"]: component["version"] for component in components} == folder.installed
    for component in components:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["licenses"][0]["expression"]
        in_the_layer = component["name"] in artifact.client_layer.installed
        assert ("layer" in component["properties"][0]["value"]) == in_the_layer
    within = {
        file["name"]: file["hashes"][0]["content"]
        for part in components
        for file in part.get("components", ())
    }
    libraries = [folder.path / file for file in folder.files if ".libs/" in file]
    assert within == {path.name: archives.digest(path) for path in libraries}
    assert any(name.startswith("libssl") for name in within)
    edges = {edge["ref"]: edge["dependsOn"] for edge in found["dependencies"]}
    refs = [
        found["metadata"]["component"]["bom-ref"],
        *(component["bom-ref"] for component in components),
    ]
    assert list(edges) == refs
    assert {needed for more in edges.values() for needed in more} == {*refs[1:]}, (
        "everything is there for a reason"
    )


def test_the_same_tree_makes_the_same_bytes(artifact: Build, tmp_path: Path) -> None:
    """Built again, in another folder, at another time, by somebody with another umask: what is
    published is the same, and it holds what is built, readable to Lambda, without stray caches or
    certificates.
    """
    mask = os.umask(0o077)
    try:
        again = build(AT_HAND, HOST)
    finally:
        os.umask(mask)
    (again.function.path / "reaper" / "certs").mkdir()
    (again.function.path / "reaper" / "certs" / "global-bundle.pem").write_text(
        "as it was that day"
    )
    (again.function.path / "reaper" / "late.pyc").touch()
    first, second = (
        archives.publish(made.folder, tmp_path / str(n), HOST)
        for n, made in enumerate((artifact, again))
    )
    assert [path.name for path in first] == [path.name for path in second]
    assert [archives.digest(path) for path in first] == [archives.digest(path) for path in second]
    function, layer, extension = (zipfile.ZipFile(path) for path in first[:3])
    with function, layer, extension:
        assert {*function.namelist()} == artifact.function.all_files
        assert {*layer.namelist()} == {f"python/{name}" for name in artifact.client_layer.all_files}
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in extension.infolist()}
        assert modes == {"extensions/reaper-goodbye": 0o755}
        assert {info.external_attr >> 16 & 0o444 for info in function.infolist()} == {0o444}
        assert function.namelist() == sorted(function.namelist())
    assert first[-1].read_text().splitlines() == [
        f"{archives.digest(path)}  {path.name}" for path in first[:-1]
    ]
