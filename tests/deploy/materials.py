"""What Arriero is made of, as a release tells it."""

import json
import os
import re
import sys
import tempfile
import tomllib

from check import check
from files import judge, path, read, same


@check("bill of materials: CycloneDX by its schema, the same twice, with every crate whose code is in the binary")
def materials(arriero):
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for name in ("one", "two"):
            file = os.path.join(folder, name)
            # It checks itself against the schema before it writes.
            judge(sys.executable, path("scripts", "sbom.py"), file)
            with open(file, encoding="utf-8") as written:
                texts.append(written.read())
    same(texts[0] == texts[1], True, "whether two are the same")
    bill = json.loads(texts[0])
    same((bill["bomFormat"], bill["specVersion"]), ("CycloneDX", "1.6"), "its form")
    version = re.search(r'^version = "(.+)"', read("Cargo.toml"), re.MULTILINE)[1]
    same((bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]), ("arriero", version), "what it is of")
    told = {(part["name"], part["version"]) for part in bill["components"] if part["scope"] == "required"}
    # Paths of sources, in what the binary says when it fails, show whose code is in it.
    with open(arriero, "rb") as file:
        seen = re.findall(rb"/registry/src/[^/\0]+/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[A-Za-z0-9.+-]*)/", file.read())
    seen = {(name.decode(), version.decode()) for name, version in seen}
    if len(seen) < 20:
        raise AssertionError(f"only {len(seen)} crates are seen in the binary")
    same(sorted(seen - told), [], "crates whose code is in the binary")
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in tomllib.loads(read("Cargo.lock"))["package"]}
    for part in bill["components"]:
        same(part["hashes"][0]["content"], checksums[part["name"], part["version"]], f"{part['name']}: its checksum")
        if not part.get("licenses"):
            raise AssertionError(f"{part['name']}: no licence")
    same({"criterion", "proptest"} & {part["name"] for part in bill["components"]}, set(), "crates for tests")
