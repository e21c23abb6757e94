#!/usr/bin/env bash
# A disk that is really full: a small tmpfs in a mount namespace of this test's own. A training run
# keeps its last good checkpoint and goes on to the same bits once there is room; what cannot be
# written is told and leaves nothing behind. 77: this machine allows no such mount.
#
#   tests/test_full_disk.sh KINORA
set -euo pipefail
kinora=$1

if [ -z "${KINORA_FULL_DISK:-}" ]; then
    disk=$(mktemp -d)
    trap 'rm -rf "$disk"' EXIT
    if ! unshare --mount --map-root-user true 2>/dev/null ||
        ! unshare --mount --map-root-user mount -t tmpfs -o size=1m none "$disk" 2>/dev/null; then
        echo "skipped: no mount namespaces here"
        exit 77
    fi
    KINORA_FULL_DISK=$disk unshare --mount --map-root-user "$0" "$kinora"
    exit
fi

disk=$KINORA_FULL_DISK/small
mkdir "$disk"
mount -t tmpfs -o size=4m none "$disk"
other=$KINORA_FULL_DISK
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
expect() { # status, words that are told, command
    local wanted=$1 words=$2 told status=0
    shift 2
    told=$("$@" 2>&1) || status=$?
    [ "$status" -eq "$wanted" ] || fail "$* ended with $status, not $wanted: $told"
    [[ "$told" == *"$words"* ]] || fail "$*: no \"$words\" in: $told"
}

told=$("$kinora" data synth "$other/data" --clips 8 --heldout-clips 0 --video-frames 2 --size 16 -q 2>&1) || {
    [[ "$told" == *"this build has no video"* ]] || fail "$told"
    echo "skipped: $told"
    exit 77
}
cat >"$other/vae.json" <<EOF
{"task": "vae", "output": "$disk/vae", "steps": 4, "batch_size": 4, "log_every": 1,
 "checkpoint_every": 2, "keep_checkpoints": 3,
 "data": {"csv": "$other/data/train.csv", "num_frames": 2, "height": 16, "width": 16},
 "vae": {"block_out_channels": [8, 16], "latent_channels": 2, "layers_per_block": 1,
         "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
         "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
         "norm_num_groups": 4, "sample_size": 16}}
EOF
train() { # status, words, flags
    local status=$1 words=$2
    shift 2
    expect "$status" "$words" "$kinora" train "$other/vae.json" -q -t 1 "$@"
}
train 0 ""
checkpoint=$disk/vae/checkpoint-00000004.safetensors
[ -s "$checkpoint" ] || fail "no checkpoint at step 4"
before=$(cksum <"$checkpoint")
# All that is left but some pages goes to another file; df is the witness.
dd if=/dev/zero of="$disk/filler" bs=4k 2>/dev/null || true
truncate -s -8k "$disk/filler"
left=$(df --output=avail -k "$disk" | tail -n 1)
[ "$left" -lt "$(($(stat -c %s "$checkpoint") / 1024))" ] || fail "$left KiB are left: not full"

train 1 "No space left on device" --resume --set steps=8
[ "$(cksum <"$checkpoint")" = "$before" ] || fail "the last good checkpoint has changed"
[ -z "$(find "$disk" -name '*.tmp*' -o -name '.kinora-*')" ] || fail "a part of a file was left"
expect 1 "$disk" "$kinora" data synth "$disk/data" --clips 8 --heldout-clips 0 --size 64 -q

rm -rf "$disk/filler" "$disk/data"
train 0 "" --resume --set steps=8
train 0 "" --set steps=8 --set output="$other/roomy"
cmp "$disk/vae/checkpoint-00000008.safetensors" "$other/roomy/checkpoint-00000008.safetensors" ||
    fail "the run that was resumed differs from the one that had room"
echo "passed"
