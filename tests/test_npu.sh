#!/usr/bin/env bash
# The simulated NPU as a third party's plug-in: Kinora is installed to a temporary prefix, the folder
# is copied away from the tree and built by its own project, and the installed program runs the op
# suite, the gradients, whole small models and reference cases on it. Usage: tests/test_npu.sh BUILD
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:?a build folder}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kinora="$work/prefix/bin/kinora"

fail() {
    echo "FAILED: $*"
    exit 1
}
# expect FILE TEXT: the file has a line with the text.
expect() {
    grep -qF -- "$2" "$1" || fail "no \"$2\" in: $(tail -n 40 "$1")"
}
# plug_in FOLDER FLAGS: builds a copy of the backend into FOLDER.
plug_in() {
    cmake -S "$work/npu" -B "$1" -DCMAKE_PREFIX_PATH="$work/prefix" \
        -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DCMAKE_C_FLAGS="-Werror $2" >"$work/log" 2>&1 &&
        cmake --build "$1" >>"$work/log" 2>&1 || fail "$(cat "$work/log")"
}

cmake --install "$build" --prefix "$work/prefix" >"$work/log" || fail "$(cat "$work/log")"
cp -r "$tree/backends/npu" "$work/npu"
flags=
if grep -q 'KINORA_SANITIZE:BOOL=ON' "$build/CMakeCache.txt"; then
    flags='-fsanitize=address,undefined -fno-sanitize-recover=all'
fi
plug_in "$work/out" "$flags"
if grep -F "$tree" "$work/out/compile_commands.json"; then
    fail "the plug-in was compiled with files of the tree"
fi
export KINORA_BACKEND_PATH="$work/out"

"$kinora" devices >"$work/devices" 2>&1 || fail "$(cat "$work/devices")"
expect "$work/devices" 'loaded: npu'
expect "$work/devices" 'simulated NPU'

"$kinora" check ops --device npu0 >"$work/ops" 2>&1 || fail "$(grep FAILED "$work/ops")"
"$kinora" check gradients --device npu0 >"$work/gradients" 2>&1 ||
    fail "$(grep FAILED "$work/gradients")"
"$kinora" check model --device npu0 >"$work/model" 2>&1 || fail "$(grep FAILED "$work/model")"
expect "$work/model" 'inference: yes; training: yes'

# ---- what it counts ----
"$kinora" bench ops --device npu0 --op matmul --case odd >"$work/bench" 2>&1 || fail "$(cat "$work/bench")"
expect "$work/bench" 'cycles'
# [7, 13] x [13, 5]: 364 + 260 bytes in, 140 out; see the cost model of npu.h
awk '/^matmul \/ odd/ { found = 1
        if ($(NF - 3) < 100 || $(NF - 3) > 10000 || $(NF - 2) != "0.001" || $(NF - 1) > 1024) bad = 1 }
    END { exit !found || bad }' "$work/bench" || fail "the counters of a product: $(cat "$work/bench")"

# ---- limits are errors, not crashes ----
if "$kinora" bench ops --device npu0 --op embedding --case table >"$work/large" 2>&1; then
    fail "a table of 500 MiB fits into a buffer of 256 MiB"
fi
expect "$work/large" 'the largest that it can have'

# ---- reference cases ----
if [ -n "${KINORA_SHARED:-}" ]; then
    for group in open-sora-1.0 t5 sd-vae ops; do
        "$kinora" check case --brief --device npu0 "$KINORA_SHARED/reference/$group-"* >"$work/cases" 2>&1 ||
            fail "reference cases: $(grep -v '^passed' "$work/cases")"
        expect "$work/cases" 'passed:'
    done
fi

# ---- the control: a device that rounds products and does not say so ----
plug_in "$work/liar" "$flags -DNPU_PRODUCTS=KIN_F32"
if KINORA_BACKEND_PATH="$work/liar" "$kinora" check ops --device npu0 --op matmul --dtype f32 \
    >"$work/liar.log" 2>&1; then
    fail "products in bf16 passed as f32"
fi
expect "$work/liar.log" 'allowed is'
tail -n 1 "$work/devices"
