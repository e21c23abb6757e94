#!/usr/bin/env bash
# The kernels that a device's tuning would not take (backends/opencl/tuning.h), forced by a setting:
# tiles in local memory, also small ones, and CLBlast. Uses KINORA_CLI and KINORA_BACKEND_PATH; 77:
# there is no device.
set -euo pipefail
"$KINORA_CLI" devices 2>/dev/null | grep -q '^opencl.*driver' || exit 77
failed=0
# check SETTINGS DTYPES OP...
check() {
    local settings=$1 dtypes=$2 op
    shift 2
    for op in "$@"; do
        if ! KINORA_SETTINGS=$settings "$KINORA_CLI" check ops --device opencl0 --dtype "$dtypes" \
            --op "$op" --quiet >"$work/out" 2>&1; then
            echo "FAILED: $op with $settings"
            cat "$work/out"
            failed=1
        fi
    done
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check opencl.product=tiles f32 matmul conv attention_grad
check opencl.product=tiles bf16 linear
check opencl.product=tiles,opencl.work_group=16,opencl.local_memory=2048 f32 matmul
# The least local memory: tiles of one element.
check opencl.product=tiles,opencl.local_memory=64 f32 matmul
check opencl.product=clblast f32 matmul
exit $failed
