#!/usr/bin/env bash
# Makes in DIR what a release consists of, for the processor of this machine: an archive with the program, a Debian package,
# what it is made of (CycloneDX), and checksums of all of it.
#
# The same commit and the same compilers give the same program, wherever its sources lie: paths of this machine do not get into
# it, and times are those of the commit.
#
# usage: scripts/release.sh DIR [TOOLS]
set -euo pipefail

root=$(dirname "$(dirname "$(realpath "$0")")")
dir=$(realpath -m "${1:?usage: scripts/release.sh DIR [TOOLS]}")
tools=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/arriero/tools}
cd "$root"
"$root/scripts/ensure.sh" rust cc cmake python
mkdir -p "$dir"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export SOURCE_DATE_EPOCH CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
# Nobody looks into these binaries with a debugger; names of functions would triple their size.
export CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$root=/arriero --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$CARGO_TARGET_DIR=/target"
# Some crates compile C.
export CFLAGS="${CFLAGS:-} -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$CARGO_TARGET_DIR=/target"
export CXXFLAGS="${CXXFLAGS:-} -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$CARGO_TARGET_DIR=/target"
cargo build --release --locked
program=$CARGO_TARGET_DIR/release/arriero
"$program" --version

machine=$(uname -m)
name=arriero-$version-$machine-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
install -D -m 755 "$program" "$work/$name/bin/arriero"
install -D -m 644 -t "$work/$name" LICENSE README.md CHANGELOG.md
install -D -m 644 -t "$work/$name/conf" conf/arriero.yaml conf/reference.yaml conf/schema.json
"$program" man "$work/$name/share/man/man1"
for shell in bash zsh fish; do
    mkdir -p "$work/$name/share/completion"
    "$program" completion "$shell" >"$work/$name/share/completion/arriero.$shell"
done
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - "$name" | gzip -9n >"$dir/$name.tar.gz"

"$root/scripts/cargo-deb.sh" "$tools"
"$tools/bin/cargo-deb" --no-build --no-strip --locked --output "$dir/"
"$root/scripts/sbom.sh" "$tools" "$dir/arriero-$version.cdx.json"
(cd "$dir" && sha256sum -- *.tar.gz *.deb *.cdx.json >SHA256SUMS)
cat "$dir/SHA256SUMS"
