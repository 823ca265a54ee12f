#!/usr/bin/env bash
# Makes sure that tools are there: installs what is missing through apt-get where that is possible (Debian,
# Ubuntu, as root), else says what to install.
#
# usage: scripts/ensure.sh TOOL…   TOOL: rust cc cmake pkg-config curl python node flock chromium openssl prometheus systemd redis debootstrap ip
set -euo pipefail

has() {
    case $1 in
    rust) command -v cargo >/dev/null && command -v rustc >/dev/null ;;
    cc) command -v cc >/dev/null && command -v c++ >/dev/null ;;
    python) python3 -c 'import venv, ensurepip' 2>/dev/null ;;
    node) command -v node >/dev/null && command -v npm >/dev/null ;;
    chromium) command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ;;
    # The server, the one that sends the alarms, and the tools of both.
    prometheus) command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null ;;
    systemd) command -v systemd-analyze >/dev/null ;;
    redis) command -v redis-server >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

packages_of() {
    case $1 in
    cc) echo gcc g++ libc6-dev ;;
    python) echo python3 python3-venv ;;
    node) echo nodejs npm ;;
    flock) echo util-linux ;;
    ip) echo iproute2 ;;
    redis) echo redis-server ;;
    prometheus) echo prometheus prometheus-alertmanager ;;
    *) echo "$1" ;;
    esac
}

missing=()
for tool in "$@"; do
    has "$tool" && continue
    if [ "$tool" = rust ]; then
        echo "error: no Rust toolchain (cargo, rustc): install one from rustup.rs or your distribution, 1.95 or newer" >&2
        exit 1
    fi
    missing+=("$tool")
done
[ ${#missing[@]} -eq 0 ] && exit 0

packages=()
for tool in "${missing[@]}"; do
    read -ra names <<<"$(packages_of "$tool")"
    packages+=("${names[@]}")
done

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "error: missing: ${missing[*]}" >&2
    echo "hint: on Debian or Ubuntu: sudo apt-get install ${packages[*]}" >&2
    exit 1
fi

echo "installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
install() { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; }
# Downloads fail now and then.
{ install || { sleep 5 && install; } || { sleep 20 && install; }; } >&2 </dev/null

for tool in "${missing[@]}"; do
    has "$tool" || { echo "error: ${tool} is still missing after apt-get install ${packages[*]}" >&2; exit 1; }
done
