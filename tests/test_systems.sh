#!/usr/bin/env bash
# Runs every command of the table in docs/systems.md on tiny random models of the five systems, and holds
# its cells to what happens. $1: the program.
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/.."
page=docs/systems.md
base=${TMPDIR:-/tmp}
if [ -w /dev/shm ]; then base=/dev/shm; fi
work=$(mktemp -d "$base/kinora-systems-XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0
fault() {
    echo "FAILED: $*"
    failed=1
}

# Small and short, unless the command says otherwise.
kinora() {
    local verb=$1 more=()
    shift
    if [ "$verb" = generate ]; then
        more=(--steps 2 -q)
        case " $* " in *" --resolution "*) ;; *) more+=(-H 32 -W 32) ;; esac
        case " $* " in
        *" --num-frames "* | *".png "*) ;;
        *) if [ "$system" = open-sora-1.1 ]; then more+=(--num-frames 8); fi ;;
        esac
    fi
    if [ "$verb" = train ]; then
        more=(-q)
        if [ "$system" = pixart-alpha ]; then more+=(--set data.num_frames=1); fi
    fi
    "$program" "$verb" "$@" "${more[@]}"
}

systems=(open-sora-1.0 open-sora-1.1 latte pixart-alpha open-sora-plan-1.2)
for system in "${systems[@]}"; do
    "$program" init "$system" "$work/$system" --size tiny -q >"$work/log" 2>&1 || {
        cat "$work/log"
        exit 1
    }
done
IMAGE=$work/image.png VIDEO=$work/video.mkv PROMPTS=$work/prompts.txt
printf 'a red circle\na blue square\n' >"$PROMPTS"
CONFIG=$work/train.json
"$program" data synth "$work/data" --clips 4 --heldout-clips 0 --video-frames 5 --size 32 -q >"$work/log"
cat >"$CONFIG" <<JSON
{"task": "text-to-video", "steps": 1, "batch_size": 1, "validation": {"prompts": []},
 "data": {"csv": "$work/data/train.csv", "num_frames": 5, "height": 32, "width": 32}}
JSON
system=open-sora-1.1
kinora generate -m "$work/$system" -p "an image" -o "$IMAGE" >/dev/null
kinora generate -m "$work/$system" -p "a video" -o "$VIDEO" >/dev/null

commands=0 refused=0
while IFS='|' read -r _ what c0 c1 c2 c3 c4 command _; do
    cells=("$c0" "$c1" "$c2" "$c3" "$c4")
    command=${command#*\`}
    command=${command%\`*}
    for i in "${!systems[@]}"; do
        system=${systems[$i]}
        cell=${cells[$i]// /}
        rm -rf "$work/out"
        mkdir "$work/out"
        here=${command//OUT/$work\/out\/x}
        here=${here//IMAGE/$IMAGE}
        here=${here//VIDEO/$VIDEO}
        here=${here//PROMPTS/$PROMPTS}
        here=${here//CONFIG/$CONFIG}
        here=$(sed -E "s#(^| |=)M( |/|\$)#\\1$work/$system\\2#g" <<<"$here")
        status=0
        eval "$here" >"$work/log" 2>&1 || status=$?
        commands=$((commands + 1))
        made=true
        case "$command" in *OUT*) [ -n "$(find "$work/out" -type f)" ] || made=false ;; esac
        if [ "$cell" = yes ] && { [ $status != 0 ] || ! $made; }; then
            fault "$system,$what: status $status: $here"
            tail -n 3 "$work/log"
        elif [ "$cell" = no ]; then
            refused=$((refused + 1))
            if [ $status = 0 ] || [ $status -gt 2 ] || ! grep -q "^kinora " "$work/log"; then
                fault "$system,$what: status $status where the page says no: $here"
                tail -n 3 "$work/log"
            fi
        elif [ "$cell" != yes ]; then
            fault "$page: $what: a cell is yes or no, not '$cell'"
        fi
    done
done < <(grep -E '^\|.*\| `kinora ' "$page")
[ "$commands" -ge 100 ] || fault "$page: only $commands commands were found"
[ "$refused" -gt 0 ] || fault "$page: nothing is refused"
echo "$commands commands, $refused of them refused"
exit $failed
