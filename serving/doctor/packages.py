"""Python and the packages that this Gaugeway was made for."""

import sys
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from serving.doctor.finding import Finding, fault, ok


@dataclass(frozen=True)
class Package:
    """What is needed (``>=1.23,<2``) and the version that is there; None: it is not."""

    name: str
    needed: str
    version: str | None


def gather() -> list[Package]:
    """Python first, then what the installed distribution says that it needs."""
    found = [Package("python", str(metadata.metadata("gaugeway")["Requires-Python"]), sys.version.split()[0])]
    for text in metadata.requires("gaugeway") or []:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            found.append(Package(one.name, str(one.specifier), _version(one.name)))
    return found


def check(packages: list[Package]) -> list[Finding]:
    wrong = [_wrong(package) for package in packages if not _fits(package)]
    if wrong:
        return [fault("packages", f"{'; '.join(wrong)}", "pip install --upgrade gaugeway, in the environment of"
                      f" {sys.executable}")]  # fmt: skip
    versions = {package.name: package.version for package in packages}
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "ray", "onnxruntime") if name in versions)
    return [ok("packages", f"{shown} and {len(packages) - 3} more are as needed")]


def _fits(package: Package) -> bool:
    return package.version is not None and SpecifierSet(package.needed).contains(package.version, prereleases=True)


def _wrong(package: Package) -> str:
    needed = package.needed or "any version"
    return f"{package.name} is {package.version or 'missing'}, needed: {needed}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
