#!/usr/bin/env bash
# The way of a published system's files through the program, for each system, tiny and with random
# weights: init, info, convert, generate, train, generate again. Usage: test_roundtrip.sh KINORA
set -euo pipefail
kinora=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export OMP_WAIT_POLICY=passive
failed=0
fault() {
    echo "FAILED: $*"
    failed=1
}
# Runs a command quietly; its messages are shown if it fails.
must() {
    if ! "$@" >out.txt 2>err.txt; then
        fault "$*"
        cat err.txt
    fi
}
# Names, dtypes and shapes of the tensors in a part's folder alone.
tensors() {
    "$kinora" info "$1" --list --model "$1/config.json" 2>/dev/null | grep -E '^[A-Za-z0-9_.]+	[a-z0-9_]+	\[' | sort
}

if ! "$kinora" data synth clips --clips 4 --heldout-clips 1 --video-frames 9 --size 64 -q 2>err.txt; then
    cat err.txt
    echo "skipped: no video in this build"
    exit 77
fi
if ! "$kinora" init latte probe --size tiny --part tokenizer -q >/dev/null 2>err.txt; then
    cat err.txt
    echo "skipped: no tokenizer in this build"
    exit 77
fi

# The path of the model is written into the file, so it is always the same one.
generate() { # model, output, more flags
    ln -sfn "$1" model
    must "$kinora" generate -m model -p "a red circle moving to the left" -s 3 --steps 2 -q -o "$2" "${@:3}"
}

for system in open-sora-1.0 open-sora-1.1 latte pixart-alpha open-sora-plan-1.2; do
    case $system in
    pixart-alpha) frames=1 ending=png ;;
    open-sora-plan-1.2) frames=9 ending=mkv ;;
    *) frames=4 ending=mkv ;;
    esac
    size=(-W 64 -H 64 --num-frames "$frames")
    must "$kinora" init "$system" "$system" --size tiny --seed 5 -q
    must "$kinora" info "$system"
    grep -q "^generate	can run" out.txt || fault "$system: info does not say that it can run"
    generate "$system" "$system-a.$ending" "${size[@]}"

    # The same weights in another form give the same file; in another dtype, or others, they do not.
    must "$kinora" convert "$system" "$system-same" --dtype f32 --verify -q
    generate "$system-same" "$system-b.$ending" "${size[@]}"
    cmp "$system-a.$ending" "$system-b.$ending" || fault "$system: safetensors in f32 differ"
    must "$kinora" convert "$system-same" "$system-q8" --dtype q8_0 --shard-size 400K -q
    must "$kinora" info "$system-q8"
    grep -q "^transformer.*q8_0" out.txt || fault "$system: no q8_0 in the converted denoiser"
    generate "$system-q8" "$system-c.$ending" "${size[@]}"
    if cmp -s "$system-a.$ending" "$system-c.$ending"; then fault "$system: q8_0 changes nothing"; fi

    # Two steps of training; what is written has the names, dtypes and shapes of the original.
    cat >"$system.json" <<END
{"task": "text-to-video", "model": "$folder/$system", "output": "$folder/$system-run",
 "data": {"csv": "$folder/clips/train.csv", "num_frames": $frames, "height": 64, "width": 64},
 "steps": 2, "batch_size": 1, "learning_rate": 0.01, "ema_decay": 0}
END
    must "$kinora" train "$system.json" -q
    tensors "$system/transformer" >before.txt
    tensors "$system-run/model/transformer" | grep -vE '^pos_embed(_temporal)?	' >after.txt || true
    # The original writes two tables that its loader computes again, and one that stays the same.
    if ! diff <(grep -v '^rope.freqs	' before.txt) <(grep -v '^rope.freqs	' after.txt) >diff.txt; then
        fault "$system: training wrote other tensors"
        head -5 diff.txt
    fi
    [ "$(wc -l <before.txt)" -gt 40 ] || fault "$system: the list of tensors was not found"
    generate "$system-run/model" "$system-d.$ending" "${size[@]}"
    if cmp -s "$system-a.$ending" "$system-d.$ending"; then fault "$system: training changes nothing"; fi
    must "$kinora" convert "$system-run/model" "$system-out" --dtype bf16 -q
    generate "$system-out" "$system-e.$ending" "${size[@]}"
done

# A checkpoint as the originals' trainings keep them, read back under its entry.
must "$kinora" convert latte/transformer 0001000.pt --into ema
mkdir back
cp latte/transformer/config.json back
must "$kinora" convert 0001000.pt back/diffusion_pytorch_model.safetensors --entry ema
tensors latte/transformer >before.txt
tensors back >after.txt
cmp before.txt after.txt || fault "0001000.pt lost tensors"
if "$kinora" convert 0001000.pt none.safetensors --entry model -q 2>/dev/null; then
    fault "an entry that is not there was found"
fi
[ ! -e none.safetensors ] || fault "none.safetensors was left behind"
[ -z "$(find . -name '.kinora-*')" ] || fault "temporary files were left behind"
exit $failed
