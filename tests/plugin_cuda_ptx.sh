#!/usr/bin/env bash
# What nvcc makes of the CUDA kernels, run on the host by the PTX machine (docs/cuda.md). Uses KINORA_CLI
# and KINORA_BACKEND_PATH; 77 where the build had no nvcc.
#   plugin_cuda_ptx.sh ops             kernels with shared memory, barriers and shuffles, and some others
#   plugin_cuda_ptx.sh mma             mma, ldmatrix and cp.async: attention and convolution
#   plugin_cuda_ptx.sh hopper PROGRAM...  these test programs with the kernels for Hopper
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
device=cuda-emulated0
part=$1
shift

# check SETTINGS ARGUMENT...: kinora check ops with these.
check() {
    local settings=cuda.execute=ptx,$1
    shift
    if ! KINORA_SETTINGS=$settings "$KINORA_CLI" check ops "$@" --quiet --device "$device" \
        >"$work/out" 2>&1; then
        if grep -q 'this build has no PTX' "$work/out"; then
            echo "skipped: the build had no nvcc, so there is no PTX of the kernels"
            exit 77
        fi
        echo "FAILED: check ops $* with \"$settings\""
        cat "$work/out"
        failed=1
    fi
}

case $part in
ops)
    for op in softmax_grad layer_norm_grad group_norm_grad sum global_norm embedding_grad copy; do
        check cuda.order=forward --dtype bf16 --op $op
        check cuda.order=shuffled --dtype f32 --op $op
    done
    for op in add cast adamw rope random_normal upsample; do
        check cuda.order=reverse --dtype f32,bf16 --op $op
    done
    for op in matmul linear; do check cuda.products=own --dtype f32,f16 --op $op; done
    ;;
mma)
    for op in attention attention_grad; do check cuda.order=shuffled --dtype bf16 --op $op; done
    check cuda.order=forward --dtype f16 --op attention
    check cuda.order=reverse --dtype bf16 --op conv
    ;;
hopper)
    check cuda.capability=90 --dtype bf16 --op add
    for program in "$@"; do
        name=
        if [ "$(basename "$program")" = plugin_cuda_kernels ]; then name=attention; fi
        if ! "$program" "$device" cuda.execute=ptx,cuda.hopper=on,cuda.capability=90 $name \
            >"$work/out" 2>&1; then
            echo "FAILED: $program"
            cat "$work/out"
            failed=1
        fi
    done
    ;;
esac
exit $failed
