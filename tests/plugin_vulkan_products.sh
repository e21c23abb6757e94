#!/usr/bin/env bash
# The heavy kernels of the Vulkan backend (products, attention, convolution, rope) with the validation
# layer on: in 16 bits by texels, as software drivers run them, and by shared memory and words, as GPUs
# do, which vulkan.kind=gpu makes any driver do. vulkan_ops has the texels in f32. Uses KINORA_CLI and
# KINORA_BACKEND_PATH; 77: there is no device.
set -euo pipefail
"$KINORA_CLI" devices 2>/dev/null | grep '^vulkan' | grep -vq 'no device' || exit 77
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
# check SETTINGS DTYPES OP...
check() {
    local settings=$1 dtypes=$2 op
    shift 2
    for op in "$@"; do
        if ! KINORA_SETTINGS=vulkan.validation=on,$settings "$KINORA_CLI" check ops \
            --device vulkan0 --dtype "$dtypes" --op "$op" --quiet >"$work/out" 2>&1 ||
            grep -q 'Vulkan layer' "$work/out"; then
            echo "FAILED: $op with $settings"
            cat "$work/out"
            failed=1
        fi
    done
}
check vulkan.kind=cpu bf16 matmul linear attention attention_grad conv conv_grad_weight rope
check vulkan.kind=cpu f16 linear attention conv_grad_input
check vulkan.kind=gpu f32 matmul linear attention attention_grad conv conv_grad_input conv_grad_weight
check vulkan.kind=gpu f16 matmul attention_grad conv
# Small bindings: convolutions in chunks of samples and of rows.
check vulkan.kind=cpu,vulkan.max_range=131072 f32 conv conv_grad_input conv_grad_weight
# A grid folded within small limits.
check vulkan.kind=gpu,vulkan.max_groups=16 f32 matmul conv
exit $failed
