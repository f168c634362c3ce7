"""Which packages are installed, and whether the versions are those that Unisono works with; nothing is imported."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from unisono.errors import way_to_install
from unisono.machine.finding import Finding

BUILDS = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly")}
"""Names under which the same package may be installed."""

WITHOUT = {"tensorboardx": "runs write no events for TensorBoard; metrics.jsonl has all"}
"""Required packages that a run can do without, and what is missing then."""


@dataclass(frozen=True)
class Packages:
    """What Unisono's metadata ask for and what there is.

    Attributes:
        unisono: its version, and None where it is not installed (used from a folder).
        python: this interpreter's version.
        pythons: the versions that it works with.
        requirements: as they stand in the metadata; an extra's names its extra.
        versions: of those packages that are installed.
    """

    unisono: str | None
    python: str
    pythons: str
    requirements: tuple[str, ...]
    versions: Mapping[str, str]


def gather_packages() -> Packages:
    """Read the metadata of what is installed."""
    try:
        about = metadata.metadata("unisono")
    except metadata.PackageNotFoundError:
        return Packages(None, platform.python_version(), "", (), {})
    requirements = tuple(about.get_all("Requires-Dist") or ())
    names = {Requirement(line).name for line in requirements}
    versions = {name: version for name in names if (version := _version(name)) is not None}
    return Packages(about["Version"], platform.python_version(), about["Requires-Python"], requirements, versions)


def _version(name: str) -> str | None:
    for build in BUILDS.get(name, (name,)):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_packages(packages: Packages, frameworks: Iterable[str], others: Iterable[str] = ()) -> list[Finding]:
    """Is everything there, in a version that Unisono works with?

    Args:
        packages: what there is.
        frameworks: the extras that bring a framework; one of them must be there.
        others: extras to tell of besides.
    """
    if packages.unisono is None:
        return [Finding("Unisono", "warning", "not installed, so versions are not known", "pip install . (its folder)")]
    frameworks = tuple(frameworks)
    found = [_python(packages), _required(packages)]
    found += [_extra(packages, extra) for extra in (*frameworks, *others)]
    if not any(_installed(packages, extra) for extra in frameworks):
        mend = "Install one: " + ", ".join(way_to_install(extra) for extra in frameworks)
        found.append(Finding("frameworks", "wrong", "none is installed", mend))
    return found


def _python(packages: Packages) -> Finding:
    fine = SpecifierSet(packages.pythons).contains(packages.python, prereleases=True)
    mend = f"It needs Python {packages.pythons}: make an environment with one."
    return Finding.of("Unisono", fine, f"{packages.unisono}, Python {packages.python}", mend, "wrong")


def _required(packages: Packages) -> Finding:
    """What every run needs."""
    wanted = _of(packages, None)
    bad = [each for each in wanted if not _in_range(each, packages.versions.get(each.name))]
    lacking = [each for each in bad if each.name.lower() not in WITHOUT]
    found = ", ".join(f"{each.name} {packages.versions.get(each.name, 'is missing')}" for each in bad or wanted)
    mend = "pip install " + " ".join(f"'{each.name}{each.specifier}'" for each in bad)
    said = "".join(f"; {WITHOUT[each.name.lower()]}" for each in bad if each not in lacking)
    return Finding.of("packages", not bad, found + said, mend, "wrong" if lacking else "warning")


def _extra(packages: Packages, extra: str) -> Finding:
    """A framework, or something else that may be there."""
    install = way_to_install(extra)
    there = _installed(packages, extra)
    if not there:
        return Finding(extra, "ok", f"not installed; {install} brings it")
    found = ", ".join(f"{each.name} {packages.versions[each.name]}" for each in there)
    wrong = [each for each in _of(packages, extra) if each.name in packages.versions]
    wrong = [each for each in wrong if not _in_range(each, packages.versions[each.name])]
    ranges = ", ".join(f"{each.name} {each.specifier}" for each in wrong)
    mend = f"Unisono works with {ranges}: {install}, or try it with unisono verify."
    return Finding.of(extra, not wrong, found, mend)


def _installed(packages: Packages, extra: str) -> list[Requirement]:
    """What is there of an extra, beside what every run needs."""
    required = {each.name for each in _of(packages, None)}
    return [each for each in _of(packages, extra) if each.name in packages.versions and each.name not in required]


def _of(packages: Packages, extra: str | None) -> list[Requirement]:
    """The requirements of an extra, or those without one."""
    every = [Requirement(line) for line in packages.requirements]
    if extra is None:
        return [each for each in every if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [each for each in every if each.marker is not None and each.marker.evaluate({"extra": extra})]


def _in_range(wanted: Requirement, version: str | None) -> bool:
    return version is not None and wanted.specifier.contains(version, prereleases=True)
