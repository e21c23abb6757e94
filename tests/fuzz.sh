#!/usr/bin/env bash
# Fuzzing of every reader of files (tests/fuzz_*.c) with Clang's libFuzzer, AddressSanitizer and
# UBSan. The library's compiler may be another one, so this script builds what it needs itself:
# the library without its devices, and of tools/ what tells a model by its files and reads prompts.
#
#   tests/fuzz.sh build FOLDER                        builds all targets in FOLDER
#   tests/fuzz.sh run FOLDER TARGET [SECONDS [SEED]]  runs one, from small good files; 8 s, seed 1
#
# What a target finds is kept in FOLDER/TARGET.found. Ends with 77 (skipped) without libFuzzer.
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
verb=${1:?build or run}
folder=${2:?a folder}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

build() {
    # shellcheck disable=SC2054,SC2016 # commas and dollars are meant
    local flags=(-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined
        -fno-sanitize-recover=all -I"$tree" -pthread)
    local libraries=() part modules
    if ! echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n == -1; }' |
        clang -x c - -fsanitize=fuzzer -o "$folder/probe" 2>/dev/null; then
        echo "fuzz: no clang with libFuzzer (packages clang and libclang-rt-14-dev): skipped"
        exit 77
    fi
    for part in "FFMPEG libavformat libavcodec libavutil libswscale" "PNG libpng" \
        "SENTENCEPIECE sentencepiece"; do
        read -r part modules <<<"$part"
        # shellcheck disable=SC2086,SC2207 # several modules, several flags
        if pkg-config --exists $modules; then
            flags+=("-DKIN_HAVE_$part=1" $(pkg-config --cflags $modules))
            libraries+=($(pkg-config --libs $modules))
        fi
    done
    # shellcheck disable=SC2207
    {
        flags+=($(pkg-config --cflags jansson minizip))
        libraries+=($(pkg-config --libs jansson minizip) -lz -ldl -lm -lpthread)
    }
    # Nothing here computes, so there are no devices.
    printf '#include "runtime/device.h"\nconst kin_backend kin_backend_cpu, kin_backend_null;\n' \
        >"$folder/no_devices.new"
    if ! cmp -s "$folder/no_devices.new" "$folder/no_devices.c"; then
        mv "$folder/no_devices.new" "$folder/no_devices.c"
    fi
    # One rule for each object; make takes care of what is up to date.
    {
        printf 'FLAGS = %s\n' "${flags[*]}"
        printf 'all:\n'
        local source name
        for source in "$folder/no_devices.c" "$tree"/{runtime,models,ops}/*.c "$tree"/runtime/*.cc \
            "$tree"/tools/model_choice.c "$tree"/tools/system/{system*,model_folder,weights_match}.c \
            "$tree"/tools/generate/{caption_clean*,mask_strategy,prompts}.c "$tree"/tests/fuzz_*.c; do
            # Two folders may have files of one name; targets are called by the file alone.
            name=$(basename "$source")
            case "$name" in fuzz_*) ;; *) name=$(basename "$(dirname "$source")")-$name ;; esac
            case "$source" in
            *sentencepiece_shim.cc)
                pkg-config --exists sentencepiece || continue
                printf '%s.o: %s Makefile\n\tclang++ -std=c++17 $(FLAGS) -fsanitize=fuzzer-no-link -MMD -c -o $@ $<\n' \
                    "$name" "$source"
                ;;
            *) printf '%s.o: %s Makefile\n\tclang -std=c11 $(FLAGS) -fsanitize=fuzzer-no-link -MMD -c -o $@ $<\n' \
                "$name" "$source" ;;
            esac
            case "$name" in
            fuzz_*)
                printf 'all: %s\n%s: %s.o runtime.a\n\tclang++ $(FLAGS) -fsanitize=fuzzer -o $@ $^ %s\n' \
                    "${name%.c}" "${name%.c}" "$name" "${libraries[*]}"
                ;;
            *) printf 'runtime.a: %s.o\n' "$name" ;;
            esac
        done
        printf 'runtime.a:\n\t@rm -f $@\n\tar rcs $@ $^\n-include *.d\n'
    } >"$folder/Makefile.new"
    if ! cmp -s "$folder/Makefile.new" "$folder/Makefile"; then
        mv "$folder/Makefile.new" "$folder/Makefile"
    fi
    make -C "$folder" -j "$(nproc)" --no-print-directory -s all
}

# A safetensors file $1 of zeros with the tensors on standard input: name, shape, bytes.
tensors() {
    local name shape bytes header='' at=0
    while read -r name shape bytes; do
        header+="${header:+,}\"$name\":{\"dtype\":\"F32\",\"shape\":$shape,\"data_offsets\":[$at,$((at + bytes))]}"
        at=$((at + bytes))
    done
    header="{$header}"
    {
        printf '%b' "$(printf '\\x%02x\\x%02x' $((${#header} % 256)) $((${#header} / 256)))\0\0\0\0\0\0"
        printf '%s' "$header"
        head -c "$at" /dev/zero
    } >"$1"
}

# Small good files in folder $1 for target $2. Targets that are not named make their own.
seeds() {
    mkdir -p "$1"
    case "$2" in
    csv)
        printf 'path,text,num_frames\na.mp4,a red circle,8\n' >"$1/plain"
        printf '\xef\xbb\xbfpath,"te""xt"\r\n"a,b\n",""\r\n' >"$1/quoted"
        ;;
    json)
        printf 'depth=3\n{"depth": 2, "model": "x", "heads": [1, 2]}' >"$1/plain"
        printf 'model.size=2.5\n{"model": {"size": 1e3}, "dpeth": true}' >"$1/nested"
        ;;
    scheduler)
        printf '\12{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2, "steps_offset": 1}' \
            >"$1/dpm"
        printf '\4{"_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "skip_prk_steps": true}' \
            >"$1/pndm"
        printf '\5{"type": "rflow", "num_sampling_steps": 30, "cfg_scale": 7.0}' >"$1/rflow"
        ;;
    caption)
        printf 'A cat &amp; a <b>dog</b>, 1920x1080 http://x.com/y #12 "red"' >"$1/plain"
        printf '|0|one|2|two {"mask_strategy": "0,0,0,0,8,0.3;1,1,-4,0,4"}' >"$1/prompt"
        ;;
    prompts)
        printf '!a red circle\n|0|one|2|two {"mask_strategy": "0;0,1", "reference_path": "a;b"}\n' \
            >"$1/lines"
        printf '"["a", {"prompt": "b", "seed": 3, "name": "x", "negative_prompt": "c"}]' >"$1/list"
        printf '#text,seed,path\n"one, two",3,a.mp4\nthree,,b.mp4\n' >"$1/table"
        ;;
    system)
        printf '{"_class_name": "PixArtTransformer2DModel", "attention_head_dim": 72, "sample_size": 64}' \
            >"$1/config"
        printf '{"_class_name": "X", "vae": ["diffusers", "Y"], "num_frames": 16, "fps": 8.5, "sampling_method": "ddim"}' \
            >"$1/index"
        printf '{"block_out_channels": [32, 64], "latent_channels": 4}' >"$1/vae"
        # The tensors from which an STDiT is told, and a T5, of one number each where that may be.
        local names='x_embedder.proj.weight [64,1,1,1,1] 256
            blocks.0.scale_shift_table [1] 4
            blocks.0.mlp.fc1.weight [64] 256
            final_layer.linear.weight [2] 8
            y_embedder.y_proj.fc1.weight [1,1] 4
            blocks.0.attn_temp.qkv.weight [1] 4'
        tensors "$1/stdit" <<<"$names"
        names='encoder.block.0.layer.0.SelfAttention.q.weight [2,4] 32
            encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight [4,1] 16
            encoder.block.0.layer.1.DenseReluDense.wi.weight [1] 4
            shared.weight [3] 12'
        tensors "$1/t5" <<<"$names"
        ;;
    safetensors)
        local header='{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}  '
        printf '%b%s12345678' "\\x$(printf %02x ${#header})\\0\\0\\0\\0\\0\\0\\0" "$header" >"$1/plain"
        ;;
    pickle)
        # torch.save({"w": torch.tensor([[1., 2.], [3., 4.]]), "n": 3}), without compression.
        base64 -d >"$1/plain" <<'BASE64'
UEsDBBQAAAAAAAAAIQBUxJUylQAAAJUAAAAKAAAAYS9kYXRhLnBrbIACfShYAQAAAHdjdG9yY2gu
X3V0aWxzCl9yZWJ1aWxkX3RlbnNvcl92MgooKFgHAAAAc3RvcmFnZWN0b3JjaApGbG9hdFN0b3Jh
Z2UKWAEAAAAwWAMAAABjcHVLBHRRSwAoSwJLAnQoSwJLAXSJY2NvbGxlY3Rpb25zCk9yZGVyZWRE
aWN0CilSdFJYAQAAAG5LA3UuUEsDBBQAAAAAAAAAIQBUFKeLEAAAABAAAAAIAAAAYS9kYXRhLzAA
AIA/AAAAQAAAQEAAAIBAUEsDBBQAAAAAAAAAIQDRnmdVAgAAAAIAAAAJAAAAYS92ZXJzaW9uMwpQ
SwECFAMUAAAAAAAAACEAVMSVMpUAAACVAAAACgAAAAAAAAAAAAAAgAEAAAAAYS9kYXRhLnBrbFBL
AQIUAxQAAAAAAAAAIQBUFKeLEAAAABAAAAAIAAAAAAAAAAAAAACAAb0AAABhL2RhdGEvMFBLAQIU
AxQAAAAAAAAAIQDRnmdVAgAAAAIAAAAJAAAAAAAAAAAAAACAAfMAAABhL3ZlcnNpb25QSwUGAAAA
AAMAAwClAAAAHAEAAAAA
BASE64
        ;;
    *) printf '\1\0\0\0' >"$1/plain" ;;
    esac
}

run() {
    local target=$1 seconds=$2 seed=$3 corpus="$folder/$1.seeds" found="$folder/$1.found"
    if [ ! -x "$folder/fuzz_$target" ]; then
        echo "fuzz: $target is not built: skipped"
        exit 77
    fi
    mkdir -p "$found"
    rm -rf "$corpus"
    seeds "$corpus" "$target"
    cd "$found"
    if ! "$folder/fuzz_$target" -max_total_time="$seconds" -seed="$seed" -timeout=10 \
        -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 -artifact_prefix="$found/" \
        "$corpus" >"$folder/$target.log" 2>&1; then
        tail -n 60 "$folder/$target.log"
        echo "fuzz: $target failed; its input is in $found"
        exit 1
    fi
    grep -E 'number_of_executed_units|peak_rss_mb|^Done' "$folder/$target.log"
}

case "$verb" in
build) build ;;
run) run "${3:?a target}" "${4:-8}" "${5:-1}" ;;
*)
    echo "fuzz: \"$verb\" is neither build nor run" >&2
    exit 2
    ;;
esac
