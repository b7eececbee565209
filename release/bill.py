"""The bill of materials, as CycloneDX has it: every package and library that is shipped.

The same input, the same text.

No time and no random number are in it, so that it can be made again and compared.
"""

from __future__ import annotations

import json
import tomllib
import uuid
from collections.abc import Sequence
from typing import Any

from release.packages import Package
from release.pins import LAYER, ROOT, ROOTS, plain, read

# The namespace of our serial numbers, drawn once
_OURS = uuid.UUID("7b0a6a53-3c0f-4a86-9d5b-7f0f0a1a5c11")


def bill(packages: Sequence[Package]) -> str:
    """The document, as JSON."""
    reaper = _reaper()
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": reaper},
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": reaper["bom-ref"], "dependsOn": _asked(packages)},
            *(
                {"ref": _ref(package), "dependsOn": _needed(package, packages)}
                for package in packages
            ),
        ],
    }
    serial = uuid.uuid5(_OURS, json.dumps(document, sort_keys=True))
    return json.dumps({"serialNumber": f"urn:uuid:{serial}", **document}, indent=2) + "\n"


def _reaper() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        "type": "application",
        "bom-ref": f"{project['name']}@{project['version']}",
        "name": project["name"],
        "version": project["version"],
        "licenses": [{"expression": project["license"]}],
    }


def _component(package: Package) -> dict[str, Any]:
    within = [
        {
            "type": "file",
            "bom-ref": f"{_ref(package)}#{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for name, digest in package.libraries
    ]
    return {
        "type": "library",
        "bom-ref": _ref(package),
        "name": package.name,
        "version": package.version,
        "licenses": [{"expression": package.licence}],
        "purl": _ref(package),
        "properties": [{"name": "reaper:shipped-in", "value": _whereabouts(package)}],
        **({"components": within} if within else {}),
    }


def _ref(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


def _whereabouts(package: Package) -> str:
    return "function, layer" if package.name in {pin.name for pin in read(LAYER)} else "function"


def _asked(packages: Sequence[Package]) -> list[str]:
    """What our own code imports: the roots, without their extras."""
    roots = {plain(root.partition("[")[0]) for asked in ROOTS.values() for root in asked}
    return [_ref(package) for package in packages if package.name in roots]


def _needed(package: Package, packages: Sequence[Package]) -> list[str]:
    return [_ref(other) for other in packages if other.name in package.needs]
