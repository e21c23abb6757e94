#!/usr/bin/env bash
# The CUDA backend without a GPU: its kernels on the host (device cuda-emulated0), and what `cuda` says
# where there is no driver. Uses KINORA_CLI and KINORA_BACKEND_PATH.
#   plugin_cuda.sh driver   the real plug-in loads, and says what is missing (77: not built, or a GPU)
#   plugin_cuda.sh ops      the op suite in f32, some of it in bf16, and that no op is missing
#   plugin_cuda.sh orders   kernels with barriers: threads in other orders give the same results
#   plugin_cuda.sh model    a tiny model: inference, training, sampling
#   plugin_cuda.sh plan     an attention of STDiT2 is one node each way between its products
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
device=cuda-emulated0

# check SETTINGS ARGUMENT...: kinora check with these.
check() {
    local settings=$1
    shift
    if ! KINORA_SETTINGS=$settings "$KINORA_CLI" check "$@" --device "$device" >"$work/out" 2>&1; then
        echo "FAILED: check $* with \"$settings\""
        cat "$work/out"
        failed=1
    fi
}

case $1 in
driver)
    # Nothing else is loaded: what other plug-ins' libraries leave behind is not looked at here.
    plugin=
    IFS=: read -ra folders <<<"$KINORA_BACKEND_PATH"
    for folder in "${folders[@]}"; do
        if [ -e "$folder/libkinora-cuda.so" ]; then plugin=$folder/libkinora-cuda.so; fi
    done
    if [ -z "$plugin" ]; then exit 77; fi
    mkdir "$work/plugin"
    cp "$plugin" "$work/plugin"
    export KINORA_BACKEND_PATH=$work/plugin
    "$KINORA_CLI" devices >"$work/out" 2>"$work/files"
    if grep -q '^cuda0' "$work/out"; then exit 77; fi
    if ! grep -q 'libkinora-cuda\.so.*loaded: cuda' "$work/files" ||
        ! grep -Eq '^cuda.*no device: (there is no NVIDIA driver|the driver shows no GPU)' "$work/out"; then
        echo "FAILED: the plug-in without a driver"
        cat "$work/out" "$work/files"
        failed=1
    fi
    if "$KINORA_CLI" check ops --op add --device cuda0 >"$work/out" 2>&1 ||
        ! grep -Eq 'no NVIDIA driver|no GPU' "$work/out"; then
        echo "FAILED: cuda0 without a driver"
        cat "$work/out"
        failed=1
    fi
    ;;
ops)
    check "" ops --dtype f32
    if ! grep -Eq '^total +[0-9]+ +0 +0 ' "$work/out"; then
        echo "FAILED: an op is missing"
        cat "$work/out"
        failed=1
    fi
    for op in add softmax layer_norm_grad group_norm linear linear_fused matmul_fused sum_cast attention conv adamw; do
        check "" ops --dtype bf16 --op $op --quiet
    done
    ;;
orders)
    for op in softmax_grad layer_norm_grad group_norm_grad sum global_norm embedding_grad copy; do
        check cuda.order=reverse ops --dtype f32 --op $op --quiet
        check cuda.order=shuffled ops --dtype f32 --op $op --quiet
    done
    for op in attention attention_grad self_attention self_attention_grad conv conv_grad_weight; do
        check cuda.order=reverse ops --dtype bf16 --op $op --quiet
    done
    # products without the library, in an order that shows a missing barrier
    for op in matmul linear; do
        check cuda.products=own,cuda.order=shuffled ops --op $op --quiet
    done
    ;;
model)
    check "" model --model STDiT
    ;;
plan)
    for flags in "--weights bf16" --train; do
        # shellcheck disable=SC2086
        "$KINORA_CLI" plan STDiT2-XL/2 --size 16x256x256 --compute bf16 $flags --nodes --device "$device" \
            >"$work/out" 2>&1 || failed=1
        for path in 'blocks\.1\.attn' 'blocks\.1\.attn_temp'; do
            grep -E "$path(\.|  )" "$work/out" | awk '{print $2}' | sort | uniq -c |
                awk '{print $2 " " $1}' >"$work/ops"
            if grep -Eq '^(rope|rms_norm|rms_norm_grad|concat|copy|attention|attention_grad) ' "$work/ops" ||
                ! grep -q '^self_attention 1$' "$work/ops" ||
                { [ "$flags" = --train ] && ! grep -q '^self_attention_grad 1$' "$work/ops"; }; then
                echo "FAILED: the plan of $path, $flags"
                cat "$work/ops"
                failed=1
            fi
        done
    done
    ;;
esac
exit $failed
