#!/usr/bin/env bash
# Puts cargo-deb, which makes Debian packages, into DIR/bin: about a minute, once.
#
# usage: scripts/cargo-deb.sh DIR
set -euo pipefail

version=3.8.0
dir=$(realpath -m "${1:?usage: scripts/cargo-deb.sh DIR}")
[ "$("$dir/bin/cargo-deb" --version 2>/dev/null)" = "cargo-deb $version" ] && exit 0
echo "installing cargo-deb $version" >&2
# Without optimisation it builds in a third of the time; what it packs is compressed by a library all the same.
env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --locked --debug --root "$dir" --version "$version" cargo-deb
