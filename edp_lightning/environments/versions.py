"""Combinations of packages in which an environment is known to be broken, refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from edp_lightning.errors import UserError


@dataclass(frozen=True)
class BrokenVersions:
    """Versions of packages that do not work together.

    Args:
        packages: Package -> range of its versions; it is their combination that fails.
        remedy: What to install instead.
    """

    packages: Mapping[str, str]
    remedy: str

    def refuse(self) -> None:
        """Refuse to go on with them.

        Raises:
            UserError: If all packages are installed in these ranges, with their versions.
        """
        found = {}
        for package, versions in self.packages.items():
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                return
            if not SpecifierSet(versions).contains(found[package], prereleases=True):
                return
        names = " and ".join(f"{package} {number}" for package, number in found.items())
        raise UserError(f"does not run with {names} together; {self.remedy}")
