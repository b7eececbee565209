"""What a package keeps to itself and we need all the same: looked up early, missed with a clear
error.
"""

from __future__ import annotations

from importlib.metadata import version
from types import FunctionType


def require(package: str, versions: str, owner: type, names: tuple[str, ...]) -> None:
    """Raise ImportError where a class of the package does not have, or never uses, one of the
    private names.

    A name may be a method's, or an attribute's that the class's own methods set and read.
    """
    used = set(dir(owner)).union(*(_names(each) for each in owner.__mro__))
    if missing := sorted(set(names) - used):
        raise unfit(package, versions, f"{owner.__name__}.{missing[0]}")


def unfit(package: str, versions: str, missing: str) -> ImportError:
    """The error for a version of the package that works differently inside."""
    return ImportError(
        f"reaper.client does not work with {package} {version(package)}, which has no {missing}; "
        f"install {package}{versions}"
    )


def _names(owner: type) -> set[str]:
    """Every attribute that the methods of a class itself speak of."""
    methods = (f for f in vars(owner).values() if isinstance(f, FunctionType))
    return {name for method in methods for name in method.__code__.co_names}
