#!/usr/bin/env bash
# plugin_opencl.sh ops: the op suite in f32, gradients included.
# plugin_opencl.sh limits: OpenCL without a driver, and one op of each kind of kernel under limits that
# no device here has. Uses KINORA_CLI and KINORA_BACKEND_PATH; 77: there is no device.
set -euo pipefail
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$KINORA_CLI" devices >"$work/out" 2>/dev/null
grep -q '^opencl.*, driver ' "$work/out" || exit 77
if [ "$1" = ops ]; then
    "$KINORA_CLI" check ops --device opencl0 --dtype f32 --quiet
    exit
fi
# Without a driver, and with one that cannot be loaded: said, and the rest works.
mkdir "$work/none" "$work/broken"
echo /no/such/driver.so >"$work/broken/x.icd"
for vendors in none broken; do
    OCL_ICD_VENDORS="$work/$vendors" "$KINORA_CLI" devices >"$work/out" 2>/dev/null
    if ! grep -q '^opencl.*no device: no driver' "$work/out" || ! grep -q '^cpu' "$work/out"; then
        echo "FAILED: devices with OCL_ICD_VENDORS=$vendors"
        cat "$work/out"
        failed=1
    fi
    if OCL_ICD_VENDORS="$work/$vendors" "$KINORA_CLI" check ops --op add --device opencl0 \
        >"$work/out" 2>&1 || ! grep -q 'no driver' "$work/out"; then
        echo "FAILED: a device with OCL_ICD_VENDORS=$vendors"
        failed=1
    fi
done
# check SETTINGS OP...: all cases in f32.
check() {
    local settings=$1 op
    shift
    for op in "$@"; do
        if ! KINORA_SETTINGS=$settings "$KINORA_CLI" check ops --device opencl0 --dtype f32 \
            --op "$op" --quiet >"$work/out" 2>&1; then
            echo "FAILED: $op with $settings"
            cat "$work/out"
            failed=1
        fi
    done
}
check opencl.work_group=1 add sum group_norm matmul attention
check opencl.work_group=64,opencl.local_memory=4096 matmul conv attention_grad
check opencl.rows=groups,opencl.work_group=8 sum softmax group_norm_grad
check opencl.rows=groups,opencl.work_group=64,opencl.local_memory=64 layer_norm matmul
exit $failed
