"""Combinations of packages in which an environment is known to be broken, refused by name."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from edp_lightning.errors import UserError


def refuse_versions(broken: Mapping[str, str], remedy: str) -> None:
    """Refuse packages that do not work together.

    Args:
        broken: Package -> range of its versions; it is their combination that fails.
        remedy: What to install instead.

    Raises:
        UserError: If all of them are installed in these ranges, with their versions.
    """
    found = {}
    for package, versions in broken.items():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            return
        if not SpecifierSet(versions).contains(found[package], prereleases=True):
            return
    if found:
        names = " and ".join(f"{package} {number}" for package, number in found.items())
        raise UserError(f"does not run with {names} together; {remedy}")
