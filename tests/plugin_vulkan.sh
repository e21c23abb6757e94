#!/usr/bin/env bash
# The Vulkan backend through the program, with the validation layer on: any of its messages is an
# error. Uses KINORA_CLI and KINORA_BACKEND_PATH; 77: there is no device.
#   plugin_vulkan.sh ops       every case of every op in f32
#   plugin_vulkan.sh limits    one op of each kind of kernel under limits that no device here has
#   plugin_vulkan.sh missing   no driver, or one that cannot serve (KINORA_TEST_VULKAN, a library made
#                              of tests/vulkan_driver.c): no device, and why
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "$1" = missing ]; then
    VK_ICD_FILENAMES=/nonexistent VK_DRIVER_FILES=/nonexistent "$KINORA_CLI" devices >"$work/out" 2>&1
    grep '^vulkan' "$work/out"
    grep -q '^vulkan.*no device: there is no Vulkan driver' "$work/out"
    if VK_ICD_FILENAMES=/nonexistent VK_DRIVER_FILES=/nonexistent "$KINORA_CLI" check ops \
        --device vulkan0 --op add --dtype f32 >"$work/out" 2>&1; then
        echo "check ops did not fail without a driver"
        exit 1
    fi
    cat "$work/out"
    grep -q 'vulkan0.*there is no Vulkan driver' "$work/out"
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.2.0"}}' \
        "$KINORA_TEST_VULKAN" >"$work/driver.json"
    # refuses KIND TEXT: `kinora devices` says it of a driver of that kind
    refuses() {
        KINORA_TEST_DRIVER=$1 VK_ICD_FILENAMES=$work/driver.json VK_DRIVER_FILES=$work/driver.json \
            "$KINORA_CLI" devices >"$work/out" 2>&1
        grep '^vulkan' "$work/out"
        grep -q "^vulkan.*no device: the Vulkan driver $2" "$work/out"
    }
    refuses old 'is older than Vulkan 1.2'
    refuses graphics 'has no queue that computes'
    refuses few 'has fewer than 8 storage buffers'
    exit 0
fi

"$KINORA_CLI" devices 2>/dev/null | grep '^vulkan' | grep -vq 'no device' || exit 77
failed=0
# The messages of closing a device are in the log only.
silent() { ! grep -q 'Vulkan layer' "$1"; }
# check SETTINGS DTYPES OP...
check() {
    local settings=$1 dtypes=$2 op
    shift 2
    for op in "$@"; do
        if ! KINORA_SETTINGS=vulkan.validation=on,$settings "$KINORA_CLI" check ops \
            --device vulkan0 --dtype "$dtypes" --op "$op" --quiet >"$work/out" 2>&1 ||
            ! silent "$work/out"; then
            echo "FAILED: $op with $settings"
            cat "$work/out"
            failed=1
        fi
    done
}
case "$1" in
ops)
    KINORA_SETTINGS=vulkan.validation=on "$KINORA_CLI" check ops --device vulkan0 --dtype f32 \
        --quiet >"$work/out" 2>&1 || failed=1
    cat "$work/out"
    silent "$work/out" || failed=1
    ;;
limits)
    # few work groups: grids are folded
    check vulkan.max_groups=16 f32 add copy sum softmax layer_norm_grad random_normal embedding
    # bindings of 4 KiB: tensors are worked off in parts
    check vulkan.max_range=4096 f32,bf16 add copy concat slice_grad cast adamw ema global_norm
    # groups of several subgroups, and no sums over subgroups at all
    check vulkan.kind=gpu f32 softmax layer_norm layer_norm_modulate_grad group_norm_grad
    check vulkan.subgroups=off f32 softmax rms_norm
    # small allocations: the arena is cut
    check vulkan.max_allocation=65536 f32 layer_norm softmax_grad
    ;;
*) exit 2 ;;
esac
exit $failed
