#!/usr/bin/env bash
# Writes what Arriero is made of into FILE, as CycloneDX (scripts/sbom.py says what). The library that knows the format is put
# into TOOLS, once.
#
# usage: scripts/sbom.sh TOOLS FILE
set -euo pipefail

here=$(dirname "$(realpath "$0")")
tools=$(realpath -m "${1:?usage: scripts/sbom.sh TOOLS FILE}")
file=$(realpath -m "${2:?usage: scripts/sbom.sh TOOLS FILE}")
# The version that the tests use, too.
wanted=$(grep -E '^cyclonedx-python-lib' "$here/../tests/e2e/requirements.txt")

if [ "$(cat "$tools/sbom/.wanted" 2>/dev/null)" != "$wanted" ]; then
    "$here/ensure.sh" python
    rm -rf "$tools/sbom"
    python3 -m venv "$tools/sbom"
    "$tools/sbom/bin/pip" install -q --disable-pip-version-check "$wanted"
    echo "$wanted" >"$tools/sbom/.wanted"
fi
mkdir -p "$(dirname "$file")"
"$tools/sbom/bin/python" "$here/sbom.py" "$file"
