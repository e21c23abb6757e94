#!/usr/bin/env bash
# The oneDNN backend: the op suite with every call that has a primitive given to it and with only those
# that are faster, and reference cases. KINORA_CLI and KINORA_BACKEND_PATH are set by the build.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*"
    exit 1
}
"$KINORA_CLI" devices >"$work/devices" 2>&1
grep -q '^onednn.*oneDNN' "$work/devices" || fail "no device: $(cat "$work/devices")"
for all in 1 0; do
    KINORA_SETTINGS=onednn.all=$all "$KINORA_CLI" check ops --device onednn --dtype f32 --quiet \
        >"$work/ops" 2>&1 || fail "$(grep FAILED "$work/ops")"
done
# The primitives are what runs, and the CPU's kernels where they are declined.
for op in linear matmul conv conv_grad_input conv_grad_weight; do
    KINORA_SETTINGS=onednn.all=1 "$KINORA_CLI" bench ops --device onednn --op $op --min-time 0 >"$work/bench" 2>&1
    grep -q "onednn_$op" "$work/bench" || fail "$op is not done by oneDNN: $(cat "$work/bench")"
done
"$KINORA_CLI" bench ops --device onednn --op conv --min-time 0 >"$work/bench" 2>&1
grep -q 'cpu_conv' "$work/bench" || fail "no convolution is left to the CPU: $(cat "$work/bench")"
if [ -n "${KINORA_SHARED:-}" ]; then
    for group in open-sora-1.0 t5 sd-vae ops; do
        KINORA_SETTINGS=onednn.all=1 "$KINORA_CLI" check case --brief --device onednn \
            "$KINORA_SHARED/reference/$group-"* >"$work/cases" 2>&1 ||
            fail "reference cases: $(grep -v '^passed' "$work/cases")"
    done
fi
