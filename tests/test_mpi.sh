#!/usr/bin/env bash
# Training by processes that mpirun starts, on this machine: the same bits as with --ranks, which needs
# no MPI; one of them that is killed ends the others. 77: there is no mpirun, or no MPI in the build.
#
#   tests/test_mpi.sh KINORA
set -euo pipefail
kinora=$1
work=$(mktemp -d)
job=
trap '[ -z "$job" ] || kill "$job" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $*" >&2
    exit 1
}
skip() {
    echo "skipped: $*"
    exit 77
}

command -v mpirun >/dev/null || skip "there is no mpirun (Debian: openmpi-bin)"
if [[ "$("$kinora" env)" == *"MPI: no training"* ]]; then
    skip "this build has no MPI"
fi
# Shared memory only: nothing is asked of a network.
export OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_pml=ob1
export OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_plm=isolated OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
# Open MPI keeps memory to the end, which is no leak of this program.
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0"
timeout 60 mpirun -n 2 true >"$work/told" 2>&1 || skip "mpirun does not run here: $(tail -n 3 "$work/told")"

told=$("$kinora" data synth "$work/data" --clips 8 --heldout-clips 0 --video-frames 2 --size 16 -q 2>&1) || {
    [[ "$told" == *"this build has no video"* ]] || fail "$told"
    skip "$told"
}
cat >"$work/vae.json" <<END
{"task": "vae", "output": "$work/none", "steps": 4, "batch_size": 2, "log_every": 1,
 "data": {"csv": "$work/data/train.csv", "num_frames": 2, "height": 16, "width": 16},
 "vae": {"block_out_channels": [8, 16], "latent_channels": 2, "layers_per_block": 1,
         "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
         "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
         "norm_num_groups": 4, "sample_size": 16}}
END
final=checkpoint-00000004.safetensors
timeout 60 "$kinora" train "$work/vae.json" -q -t 1 --ranks 3 --set output="$work/plain"
timeout 60 mpirun -n 3 "$kinora" train "$work/vae.json" -t 1 --set output="$work/mpi" >"$work/told" 2>&1 ||
    fail "mpirun: $(cat "$work/told")"
grep -q "3 ranks, sums between them by way of the host" "$work/told" || fail "not 3 ranks: $(cat "$work/told")"
cmp "$work/plain/$final" "$work/mpi/$final" || fail "MPI gives other bits"
timeout 60 mpirun -n 1 "$kinora" train "$work/vae.json" -q -t 1 --set output="$work/one" --set batch_size=6
if cmp -s "$work/one/$final" "$work/mpi/$final"; then fail "one rank gives the bits of three: nothing was compared"; fi

# An error that all see is told once, by rank 0, and mpirun learns of it.
if timeout 60 mpirun -n 2 "$kinora" train "$work/vae.json" -q --set no_such_key=1 >"$work/told" 2>&1; then
    fail "a wrong key is accepted"
fi
[ "$(grep -c no_such_key "$work/told")" -eq 1 ] || fail "not told once: $(cat "$work/told")"

# One of them is killed.
timeout 100 mpirun -n 2 "$kinora" train "$work/vae.json" -q -t 1 --set output="$work/long" \
    --set steps=1000000 --set checkpoint_every=1000000 >"$work/told" 2>&1 &
job=$!
for ((i = 0; i < 600; i++)); do
    if [ -s "$work/long/metrics.jsonl" ]; then break; fi
    sleep 0.1
done
[ -s "$work/long/metrics.jsonl" ] || fail "it does not begin: $(cat "$work/told")"
victim=
for pid in $(pgrep -f "train $work/vae.json .*output=$work/long"); do
    case $(cat "/proc/$pid/comm" 2>/dev/null) in
    timeout | mpirun | "") ;;
    *) victim=$pid ;;
    esac
done
[ -n "$victim" ] || fail "no process to kill: $(cat "$work/told")"
kill -9 "$victim"
status=0
wait "$job" || status=$?
job=
[ "$status" -ne 0 ] && [ "$status" -ne 124 ] || fail "after a kill it ended with $status"
grep -q "signal 9" "$work/told" || fail "not told who was killed: $(cat "$work/told")"
echo "MPI: 3 ranks give the bits of --ranks 3"
