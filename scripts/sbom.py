#!/usr/bin/env python3
"""Writes what Arriero is made of, as CycloneDX 1.6 in JSON: every crate that is linked in, and, with scope `excluded`, those that
only run while it is built (build scripts, macros). Cargo's own view of Cargo.lock is read; nothing is guessed from sources.

The same commit gives the same bytes: the time is that of the commit (or SOURCE_DATE_EPOCH), the serial number follows from the rest.

usage: sbom.py FILE        needs cyclonedx-python-lib[json-validation]; `make sbom` brings it
"""

import datetime
import json
import os
import subprocess
import sys
import tomllib
import uuid

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")


def said_by(*command):
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, stdin=subprocess.DEVNULL)
    return done.stdout


def tree(kinds):
    """(name, version) of the crates that a build needs, by dependencies of these kinds: with the features that are really on, which
    the graph of `cargo metadata` mixes up with those that tests turn on."""
    found = set()
    for platform in PLATFORMS:
        lines = said_by("cargo", "tree", "--locked", "--edges", kinds, "--target", platform, "--prefix", "none", "--format", "{p}")
        found.update((name, version.removeprefix("v")) for name, version in (line.split()[:2] for line in lines.splitlines() if line))
    return found


def crates():
    """(root's id, packages by id, ids that each needs, ids of what is linked in)"""
    platforms = [word for platform in PLATFORMS for word in ("--filter-platform", platform)]
    told = json.loads(said_by("cargo", "metadata", "--locked", "--format-version", "1", *platforms))
    needed, linked = tree("normal,build"), tree("normal,no-proc-macro")
    packages = {package["id"]: package for package in told["packages"] if (package["name"], package["version"]) in needed}
    edges = {node["id"]: {dep["pkg"] for dep in node["deps"] if dep["pkg"] in packages and any(kind["kind"] != "dev" for kind in dep["dep_kinds"])}
             for node in told["resolve"]["nodes"] if node["id"] in packages}
    return told["resolve"]["root"], packages, edges, {one for one, package in packages.items() if (package["name"], package["version"]) in linked}


def component(package, checksums, scope):
    name, version = package["name"], package["version"]
    purl = PackageURL("cargo", None, name, version)
    # The older way to write a choice of licences.
    licence = (package["license"] or "").replace("/", " OR ")
    checksum = checksums.get((name, version))
    return Component(
        type=ComponentType.LIBRARY, name=name, version=version, scope=scope, bom_ref=str(purl), purl=purl,
        description=" ".join((package["description"] or "").split()) or None,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checksum)] if checksum else [],
    )


def time_of_sources():
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:
        try:
            epoch = said_by("git", "log", "-1", "--format=%ct")
        except (OSError, subprocess.CalledProcessError):
            epoch = os.stat(os.path.join(ROOT, "Cargo.lock")).st_mtime
    return datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)


def main():
    root, packages, edges, linked = crates()
    with open(os.path.join(ROOT, "Cargo.lock"), "rb") as file:
        locked = tomllib.load(file)["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    own = packages[root]
    parts = {root: Component(type=ComponentType.APPLICATION, name=own["name"], version=own["version"], description=own["description"],
                             bom_ref=f"{own['name']}@{own['version']}", purl=PackageURL("generic", None, own["name"], own["version"]),
                             licenses=[LicenseFactory().make_from_string(own["license"])])}
    for one in packages.keys() - {root}:
        scope = ComponentScope.REQUIRED if one in linked else ComponentScope.EXCLUDED
        parts[one] = component(packages[one], checksums, scope)
    bom = Bom(components=[part for one, part in parts.items() if one != root])
    bom.metadata.component = parts[root]
    bom.metadata.timestamp = time_of_sources()
    for one, part in parts.items():
        bom.register_dependency(part, [parts[other] for other in edges[one]])
    nobody = uuid.UUID(int=0)
    bom.serial_number = nobody
    bom.serial_number = uuid.uuid5(nobody, JsonV1Dot6(bom).output_as_string())
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong:
        sys.exit(f"error: what was written is no CycloneDX 1.6: {wrong}")
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{sys.argv[1]}: {len(linked) - 1} crates are linked in, {len(packages) - len(linked)} only needed to build", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: sbom.py FILE")
    main()
