#!/usr/bin/env bash
# The end-to-end suite against a given Arriero.
#
# usage: tests/e2e/run.sh ARRIERO_BINARY [PART_OF_A_CHECK'S_NAME]
#
# Needs python3 with venv, node, npm, gcc, curl, Chromium, openssl, Prometheus and Redis; the last four are installed where that is possible. Installs the rest once,
# in about a minute, into ${XDG_CACHE_HOME:-$HOME/.cache}/arriero/e2e (about 0.7 GB).
set -euo pipefail

here=$(dirname "$(realpath "$0")")
binary=$(realpath "${1:?usage: tests/e2e/run.sh ARRIERO_BINARY [PART_OF_A_NAME]}")
shift
cache=${XDG_CACHE_HOME:-$HOME/.cache}/arriero/e2e

"$here/../../scripts/ensure.sh" chromium openssl prometheus redis
"$here/setup.sh" "$cache"
# Proxies of the environment are not meant for loopback, and bytecode is not meant for the source tree.
exec env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY -u ALL_PROXY -u all_proxy -u OLLAMA_HOST -u OLLAMA_HOSTS \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 "$cache/py/bin/python" "$here/suite.py" "$binary" "$cache" "$@"
