#!/usr/bin/env bash
# The whole way once: installs what is missing, builds, makes a data set of real video files, trains an
# autoencoder and a text-to-video model on it, measures what the model learned, generates clips and
# writes a report.
#
#   tools/demo.sh                  everything, into demo-output
#   tools/demo.sh --output DIR     into another folder
#   tools/demo.sh --device NAME    trains and generates on this device (see kinora devices); a plug-in
#                                  of this tree is built, others are looked for in KINORA_BACKEND_PATH
#   tools/demo.sh --against DIR    in the end holds the loss curves against those of an earlier demo,
#                                  at every logged step: with --quick for devices, within 2 %
#   tools/demo.sh --threads N      threads; default: all processors
#   tools/demo.sh --quick          a tiny version of everything, to try the machinery: the clips are noise
#   tools/demo.sh --fresh          removes the output of an earlier demo and starts anew
#
# Ctrl-C stops it; the same command goes on where it stopped. Finished stages are not done again.
# Sizes and steps are in tools/demo/vae.json and tools/demo/video.json. Only the output folder and
# build/demo are written (and what apt installs).
set -euo pipefail

output=demo-output
device=
threads=$(nproc)
quick=false
fresh=false
against=
fail() {
    echo "demo: $*" >&2
    exit 1
}
while [ $# -gt 0 ]; do
    case "$1" in
    --output | --device | --threads | --against)
        [ $# -gt 1 ] || fail "$1 wants a value; see tools/demo.sh --help"
        case "$1" in
        --output) output=$2 ;;
        --device) device=$2 ;;
        --threads) threads=$2 ;;
        --against) against=$2 ;;
        esac
        shift
        ;;
    --quick) quick=true ;;
    --fresh) fresh=true ;;
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) fail "unknown option $1; see tools/demo.sh --help" ;;
    esac
    shift
done
[[ "$threads" =~ ^[1-9][0-9]{0,3}$ ]] || fail "--threads wants a number from 1 on, not \"$threads\""
case "$output" in '') fail "--output wants a folder" ;; /*) ;; *) output=$PWD/$output ;; esac
case "$against" in '' | /*) ;; *) against=$PWD/$against ;; esac
for name in vae video; do
    if [ -n "$against" ] && [ ! -e "$against/$name/metrics.jsonl" ]; then
        fail "--against: $against/$name has no metrics.jsonl"
    fi
done
cd "$(dirname "$0")/.."
# A folder within the clone is named from the clone, so that the report has no path of this machine.
case "$output" in "$PWD"/?*) output=${output#"$PWD"/} ;; esac

build=build/demo
kinora=$build/kinora
common=(--threads "$threads")
on_device=("${common[@]}")
if [ -n "$device" ]; then on_device+=(--device "$device"); fi
# The plug-ins of this build come first, then what the user has.
export KINORA_BACKEND_PATH=$PWD/$build/backends${KINORA_BACKEND_PATH:+:$KINORA_BACKEND_PATH}
export OMP_NUM_THREADS=$threads

# ---- sizes ----------------------------------------------------------------------------------------

steps_of() { # the first "steps" of a configuration: that of the training
    grep -o '"steps": *[0-9]*' "$1" | head -n 1 | grep -o '[0-9]*$' || echo 1000
}
clips=2400 heldout_clips=48 eval_clips=60
vae_set=() video_set=() eval_set=() generate_set=()
vae_steps=$(steps_of tools/demo/vae.json)
video_steps=$(steps_of tools/demo/video.json)
prompts=("a red circle moving to the left" "a green square moving up"
    "a blue triangle moving to the right" "a yellow circle moving down"
    "the magenta square sliding left" "the cyan circle gliding upwards")
if $quick; then
    clips=120 heldout_clips=24 eval_clips=12 vae_steps=30 video_steps=30
    vae_set=(--set "steps=$vae_steps" --set batch_size=8 --set warmup_steps=5 --set log_every=5)
    video_set=(--set "steps=$video_steps" --set batch_size=4 --set warmup_steps=5
        --set log_every=5 --set validate_every=0)
    eval_set=(--steps 2)
    generate_set=(--steps 2)
    prompts=("${prompts[@]:0:2}")
fi

# ---- stages ---------------------------------------------------------------------------------------

# Name, and the seconds that it may take on two cores: a first estimate, which the stages that are done
# correct.
stages=(install build data vae video seen held-out generate sheets report)
declare -A expected=([install]=60 [build]=150 [data]=$((clips / 60 + 1))
    [vae]=$((vae_steps / 10 + 5)) [video]=$((video_steps / 15 + 20)) [seen]=$((eval_clips / 2 + 3))
    [held-out]=$((eval_clips / 2 + 3)) [generate]=$((${#prompts[@]} * 2)) [sheets]=2 [report]=2)

# run_stage calls these in a subshell with "set -e".
stage_install() {
    tools/install.sh
}
stage_build() {
    cmake -G Ninja -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF >"$output/logs/cmake.txt" 2>&1 ||
        { cat "$output/logs/cmake.txt"; return 1; }
    local targets=(kinora_cli) backend
    # "opencl1" is a device of the backend "opencl", which may be a plug-in of this tree.
    backend=${device,,}
    backend=${backend%%[0-9]*}
    if [ -e "backends/$backend/CMakeLists.txt" ] && [ -n "$backend" ]; then
        if ninja -C "$build" -t query "kinora-$backend" >"$output/logs/plugin.txt" 2>&1; then
            targets+=("kinora-$backend")
        else
            echo "$backend is no part of this build; it is looked for in KINORA_BACKEND_PATH"
        fi
    fi
    # shellcheck disable=SC2016 # ninja puts the numbers in
    NINJA_STATUS='[%f/%t] ' cmake --build "$build" -j "$threads" --target "${targets[@]}"
}
# Lines in blocks of $1, each block by steps of $2 (without a common factor, so that every line comes
# once): neighbours then differ in colour, and a sheet of the first clips shows all colours.
mix() {
    awk -v block="$1" -v step="$2" '{ line[(NR - 1) % block] = $0 }
        NR % block == 0 { for (i = 0; i < block; i++) print line[i * step % block] }'
}
stage_data() {
    "$kinora" data synth "$output/data" --clips "$clips" --heldout-clips "$heldout_clips" "${common[@]}"
    mix 60 7 <"$output/data/prompts_seen.txt" >"$output/prompts-seen.txt"
    mix 12 5 <"$output/data/prompts_heldout.txt" >"$output/prompts-held-out.txt"
    # Real clips for the sheets, in the same order: paths in a CSV are relative to it.
    { head -n 1 "$output/data/train.csv"; tail -n +2 "$output/data/train.csv" | mix 60 7; } \
        >"$output/data/mixed-seen.csv"
    { head -n 1 "$output/data/heldout.csv"; tail -n +2 "$output/data/heldout.csv" | mix 12 5; } \
        >"$output/data/mixed-held-out.csv"
}
train() { # name, further flags
    local name=$1 resume=()
    shift
    mkdir -p "$output/$name"
    if compgen -G "$output/$name/checkpoint-*" >/dev/null; then resume=(--resume); fi
    "$kinora" train "tools/demo/$name.json" "${resume[@]}" --set "output=\"$output/$name\"" \
        --set "data.csv=\"$output/data/train.csv\"" "${on_device[@]}" "$@" 2>&1 |
        keep_log "$output/$name/train.log"
}
stage_vae() {
    train vae "${vae_set[@]}"
}
stage_video() {
    train video --set "vae_path=\"$output/vae/vae\"" "${video_set[@]}"
}
evaluate() { # name
    "$kinora" eval prompts --model "$output/video/model" --prompts "$output/prompts-$1.txt" \
        --clips "$eval_clips" --seeds 3 "${eval_set[@]}" --sheet "$output/generated-$1.png" \
        -o "$output/$1.json" "${on_device[@]}"
}
stage_seen() {
    evaluate seen
}
stage_held-out() {
    evaluate held-out
}
stage_generate() {
    local i
    mkdir -p "$output/clips"
    for i in "${!prompts[@]}"; do
        "$kinora" generate --model "$output/video/model" --prompt "${prompts[$i]}" --seed $((i + 1)) \
            "${generate_set[@]}" -o "$output/clips/$((i + 1)).mp4" "${on_device[@]}" </dev/null
    done
}
stage_sheets() {
    local rows=24 name # as many as kinora eval puts on its sheet
    if [ "$eval_clips" -lt "$rows" ]; then rows=$eval_clips; fi
    for name in seen held-out; do
        "$kinora" data sheet --csv "$output/data/mixed-$name.csv" --clips "$rows" \
            -o "$output/real-$name.png"
        "$kinora" data sheet --csv "$output/data/mixed-$name.csv" --clips "$rows" \
            --beside "$output/generated-$name.png" -o "$output/compare-$name.png"
    done
}
stage_report() {
    local i arguments=() note
    for i in "${!prompts[@]}"; do arguments+=(--video "$output/clips/$((i + 1)).mp4"); done
    note="The data set is $clips clips of one moving coloured shape each, rendered as H.264 files with captions:"
    note+=" six colours, three shapes, four directions. Twelve of the 72 combinations were held out: the"
    note+=" model never saw them, though it saw their words with others. \"seen\" are prompts of the 60"
    note+=" combinations in the training clips, \"held-out\" those of the twelve."
    if $quick; then arguments+=(--note "Made with --quick: far too few steps to learn anything."); fi
    "$kinora" report --title "Kinora demo" --note "$note" --run "$output/vae" --run "$output/video" \
        --eval "$output/seen.json" --eval "$output/held-out.json" \
        --sheet "$output/generated-seen.png" --sheet "$output/real-seen.png" \
        --sheet "$output/generated-held-out.png" --sheet "$output/real-held-out.png" \
        "${arguments[@]}" "${common[@]}" -o "$output/report.html"
}

# ---- progress -------------------------------------------------------------------------------------

# Passes lines on and adds them to a file. Unlike tee it outlives Ctrl-C, so that the trainer, which
# saves its state then, can write its last words.
keep_log() {
    trap '' INT
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$1"
        printf '%s\n' "$line"
    done
}
clock() { # seconds as 12:34
    printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}
# Seconds that the stages after $1 may take, corrected by how the estimates held so far.
seconds_after() {
    local name later=0 seen=false
    for name in "${stages[@]}"; do
        if $seen && [ ! -e "$output/done/$name" ]; then later=$((later + expected[$name])); fi
        if [ "$name" = "$1" ]; then seen=true; fi
    done
    echo $((later * pace / 100))
}
# Reads the output of stage $1 and shows it with the time of all. On a terminal a line of progress takes
# the place of the one before; elsewhere there is one every ten seconds of each kind. All goes to the
# stage's log.
show_progress() {
    trap '' INT
    local name=$1 line='' piece status terminal=false open=false shown=-10 wait=10 left now later
    local begun=$SECONDS is_progress
    if [ -t 1 ]; then terminal=true wait=1; fi
    later=$(seconds_after "$name")
    left=$((expected[$name] * pace / 100))
    while true; do
        status=0
        IFS= read -r -t "$wait" piece || status=$?
        line+=$piece
        is_progress=true
        now=$((SECONDS - begun))
        if [ "$status" -eq 0 ]; then
            printf '%s\n' "$line" >>"$output/logs/$name.txt"
            if [[ "$line" =~ ([0-9]+:)?([0-9]+):([0-9]+)\ left ]]; then
                left=$((10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]}))
                if [ -n "${BASH_REMATCH[1]}" ]; then left=$((left + 3600 * 10#${BASH_REMATCH[1]%:})); fi
                stamp=$now
            elif [[ "$line" =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
                left=$((BASH_REMATCH[1] ? now * (BASH_REMATCH[2] - BASH_REMATCH[1]) / BASH_REMATCH[1] : left))
                stamp=$now
                line="build ${BASH_REMATCH[1]}/${BASH_REMATCH[2]} files, $(clock "$left") left"
            else
                is_progress=false
            fi
        elif [ "$status" -gt 128 ]; then
            # nothing for a while: the clock goes on
            [ -n "$line" ] && continue
            left=$((left > now - stamp ? left - (now - stamp) : 0))
            stamp=$now
            line="$name, $(clock "$now")"
            if $open; then line=$last; fi
        else
            break
        fi
        if $is_progress && ! $terminal && [ "${line%% *}" = "${last%% *}" ] &&
            [ $((SECONDS - shown)) -lt 10 ]; then
            line=''
            continue
        fi
        if $open; then printf '\r\033[K'; fi
        printf '[%s, about %s left] %s' "$(clock $((SECONDS - started)))" "$(clock $((left + later)))" "$line"
        if $is_progress; then shown=$SECONDS last=$line; fi
        open=false
        if $is_progress && $terminal; then open=true; else printf '\n'; fi
        line=''
    done
    if [ -n "$line" ]; then printf '%s\n' "$line"; fi
    if $open; then printf '\n'; fi
}

run_stage() {
    local name=$1 begun=$SECONDS status stamp=0 last=''
    if [ -e "$output/done/$name" ]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name"
    : >"$output/logs/$name.txt"
    set +e
    (
        set -e
        "stage_$name"
    ) 2>&1 | show_progress "$name"
    status=${PIPESTATUS[0]}
    set -e
    if $interrupted; then
        echo "demo: stopped in stage \"$name\"; the same command goes on from there" >&2
        exit 130
    fi
    if [ "$status" -ne 0 ]; then
        echo "demo: stage \"$name\" failed (status $status); its output is in $output/logs/$name.txt." >&2
        echo "demo: once the cause is gone, the same command goes on from this stage." >&2
        exit 1
    fi
    spent=$((spent + SECONDS - begun))
    foreseen=$((foreseen + expected[$name]))
    # Of the long stages alone: short ones say little.
    if [ "$foreseen" -ge 60 ]; then
        pace=$((100 * (spent + 1) / (foreseen + 1)))
        pace=$((pace < 25 ? 25 : pace > 400 ? 400 : pace))
    fi
    # Installing and building look themselves what is to be done.
    case "$name" in install | build) ;; *) echo "$((SECONDS - begun))" >"$output/done/$name" ;; esac
}

# ---- the way --------------------------------------------------------------------------------------

started=$SECONDS spent=0 foreseen=0 pace=100 interrupted=false
settings="quick=$quick device=${device:-cpu} $(cat tools/demo/vae.json tools/demo/video.json | cksum)"
if [ -e "$output" ] && [ ! -e "$output/demo-settings.txt" ] && [ -n "$(ls -A "$output" 2>&1)" ]; then
    fail "$output is there and was not made by this script: choose another --output"
fi
if $fresh && [ -e "$output" ]; then rm -rf -- "$output"; fi
if [ -e "$output/demo-settings.txt" ] && [ "$(cat "$output/demo-settings.txt")" != "$settings" ]; then
    fail "$output was made with other settings (--quick, --device, or tools/demo/*.json): --fresh starts anew, --output takes another folder"
fi
mkdir -p "$output" || fail "$output cannot be made"
printf '%s\n' "$settings" >"$output/demo-settings.txt"
mkdir -p "$output/logs" "$output/done"
trap 'interrupted=true' INT
for stage in "${stages[@]}"; do run_stage "$stage"; done

echo
echo "Done in $(clock $((SECONDS - started))) minutes. Both colour and direction right:"
grep -hE '^(seen|held-out): ' "$output/logs/report.txt" | sed 's/^/  /'
if ! $quick; then echo "  (aims: at least 85 % of the seen captions and 60 % of the held-out combinations)"; fi
echo "Where to look:"
echo "  $output/report.html               all of it on one page, which needs no other file"
echo "  $output/clips/                    generated clips (MP4)"
echo "  $output/compare-seen.png          frame by frame: generated clips on the left, real ones on the right"
echo "  $output/compare-held-out.png      the same for the held-out combinations"
echo "  $output/loss.png                  the loss curves"
echo "  $output/video/model               the model: $kinora generate --model $output/video/model --prompt \"...\""
if [ -n "$against" ]; then
    echo
    echo "Against $against:"
    for name in vae video; do
        "$kinora" check curve "$against/$name" "$output/$name" --tolerance 0.02 || {
            echo "demo: the loss curve of \"$name\" is another one than $against/$name has" >&2
            exit 1
        }
    done
fi
