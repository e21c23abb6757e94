#!/usr/bin/env bash
# Builds, checks and times the CUDA backend on a machine with a GPU, in one call, and writes tables.
#
#   bench/gpu_table.sh --output DIR            everything, in parts; DIR/table.md and DIR/table.json
#   bench/gpu_table.sh --output DIR --part ops_bf16 --part shapes      these parts only
#   bench/gpu_table.sh --output DIR --budget 540     begins no part that may outlast so many seconds
#   bench/gpu_table.sh --list                  the parts, with their limits in seconds
#   bench/gpu_table.sh --pack BUILD DIR        copies the program, the plug-in and the libraries that
#                                              they need, for a machine that cannot build; then there:
#   bench/gpu_table.sh --kinora DIR/kinora --output OUT
#
# Parts that are done are not done again, so the same command goes on where it stopped; --again does
# them anew. A part that fails or runs out of its time leaves its log and the others go on; the exit
# status is 1 then. Other options:
#   --device NAME     cuda0
#   --python FILE     the Python that has PyTorch, for the comparison; default python3
#   --cases DIR       reference cases (default $KINORA_SHARED/reference, if it is there)
#   --commit ID       noted in the tables; default: git's
#   --copy DIR        the tables and the logs (logs.tar.gz) are copied there in the end
#   --small           tiny sizes, to try the machinery without a GPU
#   --dry-run         tells what would run
# shellcheck disable=SC2317 # parts are called by their names
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
output='' device=cuda0 kinora='' python=python3 cases=${KINORA_SHARED:+$KINORA_SHARED/reference}
commit='' copy='' budget=0 small=false dry=false again=false wanted=()

fail() {
    echo "gpu_table.sh: $*" >&2
    exit 2
}

# name, limit in seconds, what it is
parts=(
    "build 580 the program and the plug-in, unless --kinora names them"
    "machine 60 the device, its driver, versions"
    "ops_f32 300 check ops in f32: every op forward and its gradient"
    "ops_bf16 300 check ops in bf16"
    "ops_f16 300 check ops in f16"
    "models 300 check model: inference, training, sampling of tiny models"
    "models_bf16 300 check model with bf16 between the layers"
    "cases 300 check case: the reference cases of the original implementations"
    "memcheck 580 compute-sanitizer memcheck over the op suite"
    "racecheck 580 compute-sanitizer racecheck over the ops with shared memory"
    "initcheck 400 compute-sanitizer initcheck likewise: memory that is read before it is written"
    "synccheck 300 compute-sanitizer synccheck likewise: barriers"
    "code 200 the kernels' machine code: registers, spills, instructions (cuobjdump)"
    "own 200 check ops of products without cuBLASLt"
    "kernels 300 all kernels at larger sizes, and every variant of attention and convolution"
    "hopper 300 attention by the kernels for Hopper, which are off until they are checked (cuda.hopper=on)"
    "hopper_conv 300 convolutions by the kernels for Hopper, likewise"
    "hopper_check 580 compute-sanitizer memcheck and racecheck over the kernels for Hopper"
    "collectives 300 sums by NCCL, with one GPU and over all of this machine"
    "demo 580 the quick demo: it trains and generates, and its loss curve is the CPU's"
    "shapes 580 single ops at the models' sizes, in turn with PyTorch"
    "shapes_hopper 400 attention and convolutions at the models' sizes by the kernels for Hopper"
    "bench_ops 300 bench ops --large in f32, bf16 and f16"
    "bench_models 580 bench model in bf16: layers, blocks, VAEs, all of T5-XXL; blocks with gradients"
    "overhead 60 bench overhead: what a node costs, and that a run asks for no memory"
    "memory 200 what plan states against what the device shows"
    "job_stdit 580 Open-Sora 1.0 with random weights of the published shapes, 16x256x256 and 16x512x512"
    "job_latte 580 Latte-1 likewise, 16x512x512"
    "job_plan 580 Open-Sora-Plan 1.2 likewise, 29 and 93 frames of 720p"
    "job_train 580 training STDiT-XL/2 16x256x256 from random weights: seconds of a step, clips a second"
)

list() {
    local part
    for part in "${parts[@]}"; do
        # shellcheck disable=SC2086 # split into its words
        set -- $part
        printf '%-13s %4s  %s\n' "$1" "$2" "${*:3}"
    done
}

# pack BUILD DIR: the C and C++ runtimes are the other machine's own.
pack() {
    local build=$1 target=$2 file
    [ -x "$build/kinora" ] || fail "$build has no kinora"
    [ -e "$build/backends/libkinora-cuda.so" ] || fail "$build has no backends/libkinora-cuda.so"
    mkdir -p "$target/lib" "$target/backends"
    cp -L "$build/kinora" "$target/"
    cp -L "$build/libkinora.so.0" "$target/lib/"
    cp -L "$build/backends/libkinora-cuda.so" "$target/backends/"
    local programs=("$build/kinora" "$build/libkinora.so.0")
    for file in plugin_cuda_sizes plugin_cuda_kernels plugin_cuda_conv plugin_cuda_nccl; do
        if [ -x "$build/backends/cuda/$file" ]; then
            cp "$build/backends/cuda/$file" "$target/"
            programs+=("$build/backends/cuda/$file")
        fi
    done
    ldd "${programs[@]}" | awk '$3 ~ /^\// {print $3}' | sort -u |
        grep -Ev '/(ld-linux|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libkinora)[-.]' |
        while read -r file; do cp -L "$file" "$target/lib/"; done
    du -sh "$target"
}

while [ $# -gt 0 ]; do
    case $1 in
    --pack)
        [ $# -eq 3 ] || fail "--pack BUILD DIR"
        pack "$2" "$3"
        exit 0
        ;;
    --list)
        list
        exit 0
        ;;
    --small) small=true ;;
    --dry-run) dry=true ;;
    --again) again=true ;;
    --output | --device | --kinora | --python | --cases | --commit | --copy | --budget | --part)
        [ $# -gt 1 ] || fail "$1 wants a value"
        case $1 in
        --output) output=$2 ;;
        --device) device=$2 ;;
        --kinora) kinora=$2 ;;
        --python) python=$2 ;;
        --cases) cases=$2 ;;
        --commit) commit=$2 ;;
        --copy) copy=$2 ;;
        --budget) budget=$2 ;;
        --part) wanted+=("$2") ;;
        esac
        shift
        ;;
    -h | --help)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[ -n "$output" ] || fail "--output wants a folder; see --help"
[[ $budget =~ ^[0-9]+$ ]] || fail "--budget wants a number of seconds"
for part in "${wanted[@]}"; do
    list | awk '{print $1}' | grep -qx "$part" || fail "there is no part $part; see --list"
done
mkdir -p "$output/parts"
output=$(cd "$output" && pwd)
began=$(date +%s)
[ -n "$commit" ] || commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)

# ---- what the parts need ----

# Folders of cuBLASLt and NCCL where the dynamic linker does not know them: those of Python's packages.
libraries() {
    local name
    for name in libcublasLt.so.13 libnccl.so.2; do
        if ldconfig -p 2>/dev/null | grep -q "$name"; then continue; fi
        "$python" - "$name" <<'PYTHON' 2>/dev/null || true
import glob
import os
import sys
found = [f for p in sys.path for f in glob.glob(os.path.join(p, "nvidia", "*", "lib", sys.argv[1]))]
if found:
    print(os.path.dirname(found[0]))
PYTHON
    done
}

# Sets `kinora` and the paths of its libraries, once it is there.
find_kinora() {
    local folder
    if [ -z "$kinora" ] && [ -x "$output/build/kinora" ]; then kinora=$output/build/kinora; fi
    [ -n "$kinora" ] || return 1
    folder=$(cd "$(dirname "$kinora")" && pwd)
    kinora=$folder/$(basename "$kinora")
    if [ -d "$folder/lib" ]; then export LD_LIBRARY_PATH=$folder/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; fi
    for folder in $(libraries); do export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; done
    folder=$(dirname "$kinora")
    if [ -d "$folder/backends" ]; then
        export KINORA_BACKEND_PATH=$folder/backends${KINORA_BACKEND_PATH:+:$KINORA_BACKEND_PATH}
    fi
}

# The compute capability of the first GPU as CMake's list takes it.
architecture() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1)
    case $capability in
    9.0) echo 90a ;;
    8.0) echo 80 ;;
    *) echo '80;90a;90-virtual' ;;
    esac
}

ops() {
    "$kinora" check ops --device "$device" --dtype "$1"
}

# sanitize TOOL OP...: the sanitizer makes every launch slow: ops one by one, as many as there is time
# for, and all of them whatever fails.
sanitize() {
    local tool=$1 op failed=0
    shift
    command -v compute-sanitizer >/dev/null || {
        echo "skipped: there is no compute-sanitizer"
        return 0
    }
    for op in "$@"; do
        echo "== $tool $op"
        compute-sanitizer --tool "$tool" --error-exitcode 9 \
            "$kinora" check ops --device "$device" --dtype bf16 --op "$op" --quiet || failed=1
    done
    return "$failed"
}

# ---- the parts ----

part_build() {
    if [ -n "$kinora" ]; then
        echo "skipped: $kinora"
        return 0
    fi
    cmake -G Ninja -S "$root" -B "$output/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
        -DKINORA_OPENCL=OFF -DKINORA_VULKAN=OFF -DKINORA_ONEDNN=OFF \
        "-DKINORA_CUDA_ARCHS=$(architecture)" &&
        cmake --build "$output/build" --target kinora_cli kinora-cuda
}

part_machine() {
    echo "commit $commit"
    date -u '+date %Y-%m-%dT%H:%M:%SZ'
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,memory.used,clocks.sm,clocks.mem,power.limit \
            --format=csv
    fi
    "$kinora" devices
    "$kinora" env
    "$python" -c 'import torch; print("PyTorch", torch.__version__, "CUDA", torch.version.cuda)' 2>/dev/null ||
        echo "no PyTorch"
}

part_ops_f32() { ops f32; }
part_ops_bf16() { ops bf16; }
part_ops_f16() { ops f16; }
part_models() { "$kinora" check model --device "$device"; }
part_models_bf16() { "$kinora" check model --device "$device" --compute bf16; }

part_cases() {
    if [ -z "$cases" ] || [ ! -d "$cases" ]; then
        echo "skipped: there are no reference cases (--cases)"
        return 0
    fi
    local folders=()
    for folder in "$cases"/*/; do
        if [ -e "$folder/case.json" ]; then folders+=("$folder"); fi
    done
    "$kinora" check case --brief --device "$device" "${folders[@]}"
}

part_memcheck() {
    sanitize memcheck copy cast concat slice_grad add gelu_tanh_grad where modulate matmul linear sum \
        max softmax softmax_grad layer_norm layer_norm_grad layer_norm_modulate \
        layer_norm_modulate_grad rms_norm_grad group_norm group_norm_grad attention attention_grad \
        rope conv conv_grad_input conv_grad_weight conv_patches upsample upsample_grad pad pad_grad \
        embedding embedding_grad timestep_embedding random_normal global_norm adamw adamw_ema ema \
        linear_fused matmul_fused sum_cast self_attention self_attention_grad
}

part_racecheck() {
    sanitize racecheck copy sum max softmax softmax_grad layer_norm layer_norm_grad \
        layer_norm_modulate_grad group_norm group_norm_grad global_norm attention attention_grad \
        conv conv_grad_input conv_grad_weight self_attention self_attention_grad adamw_ema
}

part_initcheck() {
    sanitize initcheck copy sum softmax layer_norm_grad group_norm_grad attention attention_grad \
        self_attention_grad conv conv_grad_input conv_grad_weight linear linear_fused global_norm \
        adamw_ema
}

part_synccheck() {
    sanitize synccheck sum softmax layer_norm_grad group_norm group_norm_grad attention \
        attention_grad self_attention self_attention_grad conv conv_grad_weight global_norm
}

part_code() {
    local status=0
    "$root/tests/plugin_cuda_code.sh" || status=$?
    [ "$status" = 0 ] || [ "$status" = 77 ]
}

part_own() {
    local op
    for op in matmul linear; do
        KINORA_SETTINGS=cuda.products=own "$kinora" check ops --device "$device" --op "$op" || return 1
    done
}

# built NAME ARGUMENT...: a test program that lies beside the program, or in its build.
built() {
    local name=$1 program
    shift
    for program in "$(dirname "$kinora")"/{,backends/cuda/}"$name"; do
        if [ -x "$program" ]; then
            "$program" "$device" "$@"
            return
        fi
    done
    echo "skipped: there is no $name"
}

part_kernels() { built plugin_cuda_sizes && built plugin_cuda_kernels; }

# hopper OP...: the op suite by the kernels for Hopper.
hopper() {
    local op
    for op in "$@"; do
        KINORA_SETTINGS=cuda.hopper=on "$kinora" check ops --device "$device" --op "$op" || return 1
    done
}

part_hopper() {
    hopper attention attention_grad self_attention self_attention_grad &&
        built plugin_cuda_kernels cuda.hopper=on attention
}

part_hopper_conv() {
    hopper conv conv_grad_input conv_grad_weight && built plugin_cuda_conv cuda.hopper=on
}

part_hopper_check() {
    export KINORA_SETTINGS=cuda.hopper=on
    local failed=0
    sanitize memcheck attention attention_grad conv conv_grad_input conv_grad_weight || failed=1
    sanitize racecheck attention attention_grad conv conv_grad_input conv_grad_weight || failed=1
    return "$failed"
}

# tiny_clips: a tiny system with random weights, and clips to train it on.
tiny_clips() {
    local folder=$output/weights/tiny-open-sora-1.0
    has_init || return 1
    if [ ! -d "$folder" ]; then
        "$kinora" init open-sora-1.0 "$folder.part" --size tiny --quiet || return 1
        mv "$folder.part" "$folder" || return 1
    fi
    echo '{"task": "text-to-video", "model": "", "output": "", "data": {"csv": ""}}' >"$output/tiny.json"
    [ -e "$output/tiny-clips/train.csv" ] ||
        "$kinora" data synth "$output/tiny-clips" --clips 32 --video-frames 4 --size 32 --quiet
}

# tiny_training OUTPUT DEVICE RANKS BATCH: five steps.
tiny_training() {
    rm -rf "$1"
    "$kinora" train "$output/tiny.json" --device "$2" --ranks "$3" --set "output=$1" \
        --set "model=$output/weights/tiny-open-sora-1.0" \
        --set "data.csv=$output/tiny-clips/train.csv" --set data.num_frames=4 \
        --set "batch_size=$4" --set steps=5 --set log_every=1 --set validate_every=0
}

# NCCL with one GPU; then as many ranks as GPUs give the losses of one with the whole batch.
part_collectives() {
    local count
    built plugin_cuda_nccl || return 1
    count=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
    if $small; then count=2; fi
    if [ "$count" -lt 2 ] || "$kinora" env | grep -q 'no video files'; then
        echo "skipped: $count GPUs, or built without video"
        return 0
    fi
    tiny_clips && tiny_training "$output/ranks-1" "$device" 1 $((2 * count)) &&
        tiny_training "$output/ranks-n" "${device%%[0-9]*}" "$count" 2 || return 1
    paste <(grep -o '"loss": [^,]*' "$output/ranks-1/metrics.jsonl") \
        <(grep -o '"loss": [^,]*' "$output/ranks-n/metrics.jsonl") |
        awk '{off = $2 > $4 ? $2 - $4 : $4 - $2; if (off > 1e-3 * $2) bad = 1; print}
            END {exit NR < 5 || bad}'
}

part_demo() {
    if "$kinora" env | grep -q 'no video files'; then
        echo "skipped: built without video"
        return 0
    fi
    if [ ! -d "$output/build" ]; then
        echo "skipped: tools/demo.sh builds what it runs, and this is a packed program"
        return 0
    fi
    "$root/tools/demo.sh" --quick --device cpu --output "$output/demo-cpu" &&
        "$root/tools/demo.sh" --quick --device "$device" --output "$output/demo-gpu" \
            --against "$output/demo-cpu"
}

part_shapes() {
    local options=()
    "$python" -c 'import numpy' 2>/dev/null || {
        echo "skipped: $python has no numpy"
        return 0
    }
    if $small; then options+=(--small --rounds 1 --min-time 0.01); fi
    "$python" "$root/bench/gpu_shapes.py" --kinora "$kinora" --device "$device" --output "$output" \
        "${options[@]}"
}

part_shapes_hopper() {
    if $small || ! "$python" -c 'import numpy' 2>/dev/null; then
        echo "skipped: tiny, or no numpy"
        return 0
    fi
    KINORA_SETTINGS=cuda.hopper=on "$python" "$root/bench/gpu_shapes.py" --kinora "$kinora" \
        --device "$device" --output "$output/hopper" --row 'attention' --row 'conv'
}

part_bench_ops() {
    local dtype
    if $small; then
        "$kinora" bench ops --device "$device" --op add --min-time 0.01 --commit "$commit" \
            --json "$output/ops-f32.json"
        return
    fi
    for dtype in f32 bf16 f16; do
        "$kinora" bench ops --large --device "$device" --dtype "$dtype" --commit "$commit" \
            --json "$output/ops-$dtype.json" || return 1
    done
}

part_bench_models() {
    local names=()
    if $small; then
        names=(--model attention-256)
        "$kinora" bench model --device "$device" --min-time 0.01 "${names[@]}" --commit "$commit" \
            --json "$output/models.json"
        return
    fi
    mapfile -t names < <("$kinora" bench model --list | awk 'NF > 1 {print "--model"; print $1}')
    "$kinora" bench model --device "$device" --dtype bf16 "${names[@]}" --commit "$commit" \
        --json "$output/models.json" &&
        "$kinora" bench model --device "$device" --dtype bf16 --train --model demo \
            --model STDiT-XL/2-block --model STDiT2-XL/2-block --model Latte-1-blocks \
            --commit "$commit" --json "$output/models-train.json" &&
        "$kinora" bench model --device "$device" --dtype bf16 --train --profile \
            --model STDiT-XL/2-block
}

part_overhead() { "$kinora" bench overhead --device "$device" --json "$output/overhead.json"; }

# What plans of the published sizes state; how much is there. That a step keeps to it: job_train.
part_memory() {
    local model what
    for model in STDiT-XL/2 Latte-1; do
        "$kinora" plan "$model" --size 16x512x512 --train --compute bf16 --memory 24G \
            --device "$device" || return 1
        for what in nothing cheap segments; do
            echo "== $model, recomputing $what"
            "$kinora" plan "$model" --size 16x512x512 --train --compute bf16 --recompute "$what" \
                --device "$device" || return 1
        done
    done
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=memory.total,memory.used --format=csv,noheader
    fi
}

# job NAME SYSTEM FRAMES HEIGHT WIDTH FEW MANY: two runs; the difference is what steps cost.
job() {
    local name=$1 system=$2 frames=$3 height=$4 width=$5 steps taken=() start
    local folder=$output/weights/$system size=published
    if $small; then size=tiny; fi
    if [ ! -d "$folder" ]; then
        "$kinora" init "$system" "$folder.part" --size "$size" --dtype bf16 --quiet &&
            mv "$folder.part" "$folder" || return 1
    fi
    for steps in "$6" "$7"; do
        start=$(date +%s.%N)
        "$kinora" generate --model "$folder" --prompt 'a wave on the shore' --video-frames "$frames" \
            --height "$height" --width "$width" --steps "$steps" --dtype bf16 --device "$device" \
            --output "$output/job/frame_%03d.png" --overwrite || return 1
        taken+=("$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN {print b - a}')")
    done
    awk -v name="$name" -v few="$6" -v many="$7" -v a="${taken[0]}" -v b="${taken[1]}" 'BEGIN {
        printf "job\t%s\t%.3f s a step\t%.1f s beside the steps\n", name, (b - a) / (many - few),
            a - few * (b - a) / (many - few)
    }'
}

has_init() {
    mkdir -p "$output/weights" "$output/job"
    "$kinora" init --help >/dev/null 2>&1 || {
        echo "skipped: this program has no init"
        return 1
    }
}

part_job_stdit() {
    has_init || return 0
    if $small; then
        job 'tiny Open-Sora 1.0' open-sora-1.0 4 32 32 1 2
        return
    fi
    job '16x256x256' open-sora-1.0 16 256 256 10 50 &&
        job '16x512x512' open-sora-1.0 16 512 512 10 30
}

part_job_latte() {
    if $small; then
        echo "skipped: tiny"
        return 0
    fi
    has_init || return 0
    job '16x512x512' latte 16 512 512 10 30
}

part_job_plan() {
    if $small; then
        echo "skipped: tiny"
        return 0
    fi
    has_init || return 0
    job '29x720p' open-sora-plan-1.2 29 720 1280 2 6 &&
        job '93x720p' open-sora-plan-1.2 93 720 1280 1 3
}

# watched COMMAND...: the same, and the most memory that the GPU showed meanwhile.
watched() {
    local watcher status=0
    if ! command -v nvidia-smi >/dev/null; then
        "$@"
        return
    fi
    rm -f "$output/used.txt"
    while sleep 0.5; do
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -1 >>"$output/used.txt"
    done &
    watcher=$!
    "$@" || status=$?
    kill "$watcher"
    echo "memory of the GPU, at most: $(sort -n "$output/used.txt" | tail -1) MiB"
    return "$status"
}

# Steps of the recipe on 16 rendered clips, without the first three; the encoding of clips and texts,
# which is done once, is in the log.
part_job_train() {
    local batch=8 folder=$output/weights/open-sora-1.0
    if "$kinora" env | grep -q 'no video files'; then
        echo "skipped: built without video"
        return 0
    fi
    has_init || return 0
    rm -rf "$output/train"
    if $small; then
        batch=2
        tiny_clips && tiny_training "$output/train" "$device" 1 "$batch" || return 1
    else
        if [ ! -d "$folder" ]; then
            "$kinora" init open-sora-1.0 "$folder.part" --dtype bf16 --quiet || return 1
            mv "$folder.part" "$folder" || return 1
        fi
        "$kinora" data synth "$output/clips" --clips 16 --video-frames 16 --size 256 --quiet &&
            watched "$kinora" train "$root/tools/recipes/open-sora-1.0-16x256x256.json" --device "$device" \
                --set "model=$folder" --set "output=$output/train" \
                --set "data.csv=$output/clips/train.csv" --set data.frame_interval=1 \
                --set "batch_size=$batch" --set accumulate_steps=1 --set steps=15 \
                --set recompute=auto --set validate_every=0 --set log_every=1 || return 1
        rm -f "$output/train"/checkpoint-*
    fi
    sed -n 's/.*"step": \([0-9]*\),.*"seconds_per_step": \([0-9.e-]*\).*/\1 \2/p' \
        "$output/train/metrics.jsonl" | awk '$1 > 3 {print $2}' | sort -g |
        awk -v batch="$batch" '{t[NR] = $1} END {
            step = t[int((NR + 1) / 2)]
            printf "job\ttraining, batch %d\t%.3f s a step\t%.2f clips a second\n", batch, step, batch / step
        }'
}

# ---- running them ----

# The parts that are wanted, in the order in which they were named.
ordered() {
    local name
    if [ ${#wanted[@]} -eq 0 ]; then
        printf '%s\n' "${parts[@]}"
        return
    fi
    for name in "${wanted[@]}"; do printf '%s\n' "${parts[@]}" | grep "^$name "; done
}

# A part runs in a process of its own, so that its limit ends all that it started.
run_part() {
    local name=$1 limit=$2 log=$output/parts/$1.txt start status=0 left
    if ! $again && [ -e "$output/parts/$name.ok" ]; then
        echo "$name: done before"
        return 0
    fi
    if [ "$budget" -gt 0 ]; then
        left=$((budget - ($(date +%s) - began)))
        if [ "$left" -lt 30 ]; then
            echo "$name: no time left"
            return 0
        fi
        if [ "$limit" -gt "$left" ]; then limit=$left; fi
    fi
    if $dry; then
        echo "$name: would run, $limit seconds at most"
        return 0
    fi
    rm -f "$output/parts/$name.ok" "$output/parts/$name.failed"
    start=$(date +%s)
    export -f job has_init watched tiny_clips tiny_training built ops sanitize hopper architecture "part_$name"
    export root output device kinora python cases commit small
    timeout --kill-after=10 "$limit" bash -c "set -uo pipefail; part_$name" >"$log" 2>&1 || status=$?
    local seconds=$(($(date +%s) - start)) verdict=ok
    if [ $status -ne 0 ]; then verdict=failed; fi
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then echo "stopped after $limit seconds" >>"$log"; fi
    echo "$status $seconds" >"$output/parts/$name.$verdict"
    echo "$name: $verdict, $seconds s$([ $verdict = ok ] || echo ", status $status: $(tail -1 "$log")")"
    [ $status -eq 0 ]
}

quoted() {
    sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' | tr -d '\000-\010\013-\037' | awk '{printf "%s\"%s\"", (NR > 1 ? ", " : ""), $0}'
}

# What each part came to, in both forms, from its files.
write_tables() {
    local part name what status seconds verdict separator=''
    {
        echo "# The CUDA backend on $(awk -F '\t' -v name="${device%%[0-9]*}" 'index($1, name) == 1 && NF > 1 {
            print $2
            exit
        }' "$output/parts/machine.txt" 2>/dev/null || echo "$device")"
        printf '\nCommit %s. Made by bench/gpu_table.sh.\n\n' "$commit"
        if [ -e "$output/parts/machine.txt" ]; then
            printf '```\n'
            cat "$output/parts/machine.txt"
            printf '```\n\n'
        fi
        printf '| part | what | verdict | seconds | last line |\n|---|---|---|---|---|\n'
        while read -r name _ what; do
            verdict='not run' seconds=''
            for status in ok failed; do
                if [ -e "$output/parts/$name.$status" ]; then
                    verdict=$status
                    read -r _ seconds <"$output/parts/$name.$status"
                fi
            done
            printf '| %s | %s | %s | %s | %s |\n' "$name" "$what" "$verdict" "$seconds" \
                "$(tail -1 "$output/parts/$name.txt" 2>/dev/null | cut -c1-120 | tr '|\t' '/ ' || true)"
        done < <(list)
        if [ -e "$output/shapes.md" ]; then
            printf '\n## Single ops at the sizes of the models\n\n'
            cat "$output/shapes.md"
        fi
        if [ -e "$output/hopper/shapes.md" ]; then
            printf '\n## Attention and convolutions by the kernels for Hopper\n\n'
            cat "$output/hopper/shapes.md"
        fi
        for name in overhead bench_ops bench_models memory job_stdit job_latte job_plan job_train; do
            if [ ! -e "$output/parts/$name.txt" ]; then continue; fi
            printf '\n## %s\n\n```\n' "$name"
            cat "$output/parts/$name.txt"
            printf '```\n'
        done
    } >"$output/table.md"
    {
        printf '{"commit": "%s", "device": "%s", "machine": [%s], "parts": [' "$commit" "$device" \
            "$([ ! -e "$output/parts/machine.txt" ] || quoted <"$output/parts/machine.txt")"
        for part in "$output"/parts/*.ok "$output"/parts/*.failed; do
            [ -e "$part" ] || continue
            name=$(basename "$part")
            read -r status seconds <"$part"
            printf '%s\n {"name": "%s", "status": %s, "seconds": %s, "log": [%s]}' "$separator" \
                "${name%.*}" "$status" "$seconds" "$(tail -40 "$output/parts/${name%.*}.txt" | quoted)"
            separator=,
        done
        printf '\n]}\n'
    } >"$output/table.json"
}

failed=0
find_kinora || true
mapfile -t queue < <(ordered)
for part in "${queue[@]}"; do
    # shellcheck disable=SC2086 # split into its words
    set -- $part
    if ! $dry && [ "$1" != build ] && [ -z "$kinora" ] && ! find_kinora; then
        echo "$1: there is no program; the part build makes it, or --kinora names it"
        failed=1
        break
    fi
    run_part "$1" "$2" || failed=1
done
if ! $dry; then
    write_tables
    if [ -n "$copy" ]; then
        mkdir -p "$copy"
        cp "$output/table.md" "$output/table.json" "$copy/"
        tar -czf "$copy/logs.tar.gz" -C "$output" parts
    fi
    echo "tables: $output/table.md, $output/table.json"
fi
exit $failed
