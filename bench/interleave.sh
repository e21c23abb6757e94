#!/usr/bin/env bash
# Runs Kinora and PyTorch in turn on the same models, several rounds, and prints medians and ratios.
#
#   bench/interleave.sh [-k KINORA] [-p PYTHON] [-n ROUNDS] [-t THREADS] [-s SECONDS] [-o FILE] [NAME...]
#
# NAME is one of `kinora bench model --list`, with ":train" behind it for a step with gradients; the
# default is demo:train, the training step of the demo. For every sample the load average and what
# others took of the processors are noted. A sample is quiet if other processes used less than 6 % and
# the host took less than 3 %. A round counts if both its samples are quiet; if fewer than three rounds
# are, all count, and the table says so. -o: every sample, separated by tabs.
#
# OPENBLAS_CORETYPE and the like are passed on to both. PyTorch gets ATEN_CPU_CAPABILITY=avx512 where
# the processor has that and the variable is not set: by itself 1.13 does not use it on every make.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kinora=kinora python=/usr/bin/python3 rounds=5 threads=2 seconds=3 samples=""
while getopts k:p:n:t:s:o:h flag; do
    case $flag in
    k) kinora=$OPTARG ;;
    p) python=$OPTARG ;;
    n) rounds=$OPTARG ;;
    t) threads=$OPTARG ;;
    s) seconds=$OPTARG ;;
    o) samples=$OPTARG ;;
    *)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0"
        exit 2
        ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- demo:train
command -v "$kinora" >/dev/null || {
    echo "interleave.sh: no program $kinora; name it with -k" >&2
    exit 2
}
"$python" -c 'import torch' 2>/dev/null || {
    echo "interleave.sh: $python has no torch; install python3-torch or name another with -p" >&2
    exit 2
}
if [ -z "${ATEN_CPU_CAPABILITY:-}" ] && grep -qm1 avx512dq /proc/cpuinfo 2>/dev/null; then
    export ATEN_CPU_CAPABILITY=avx512
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$samples" ] || samples=$work/samples
TIMEFORMAT='%R %U %S'

# Busy and stolen ticks of all processors.
ticks() { awk '/^cpu /{print $2 + $3 + $4 + $7 + $8, $9}' /proc/stat; }

# measure WHO ROUND NAME COMMAND...: runs it with --json and adds a line to the samples.
measure() {
    local who=$1 round=$2 name=$3 load before after
    shift 3
    load=$(cut -d' ' -f1 /proc/loadavg)
    before=$(ticks)
    if ! { time "$@" --json "$work/one.json" >"$work/out" 2>"$work/err"; } 2>"$work/time"; then
        echo "interleave.sh: $* failed:" >&2
        cat "$work/err" >&2
        exit 1
    fi
    after=$(ticks)
    "$python" - "$work/one.json" "$who" "$round" "$name" "$load" "$before" "$after" \
        "$(tail -1 "$work/time")" "$(getconf CLK_TCK)" "$(nproc)" <<'PY' | tee -a "$samples" >&2
import json, sys
path, who, round_, name, load, before, after, times, tick, processors = sys.argv[1:]
busy, stolen = (float(b) - float(a) for a, b in zip(before.split(), after.split()))
wall, user, system = map(float, times.split())
room = wall * int(processors)
others = max(0.0, busy / float(tick) - user - system) / room
case = json.load(open(path, encoding="utf-8"))["cases"][0]
print(round_, name, who, f"{case['median']:.6g}", load, f"{others:.3f}", f"{stolen / float(tick) / room:.3f}", sep="\t")
PY
}

printf 'round\tcase\twho\tmedian_s\tload\tothers\tstolen\n' | tee "$samples" >&2
for round in $(seq "$rounds"); do
    for case in "$@"; do
        name=${case%:train} train=()
        if [ "$case" != "$name" ]; then train=(--train); fi
        ours=("$kinora" bench model -q -m "$name" "${train[@]}" -t "$threads" --min-time "$seconds")
        torch=("$python" "$here/torch_step.py" -m "$name" "${train[@]}" -t "$threads" --min-time "$seconds")
        if [ $((round % 2)) -eq 1 ]; then
            measure kinora "$round" "$case" "${ours[@]}"
            measure torch "$round" "$case" "${torch[@]}"
        else
            measure torch "$round" "$case" "${torch[@]}"
            measure kinora "$round" "$case" "${ours[@]}"
        fi
    done
done

"$python" - "$samples" <<'PY'
import collections, csv, statistics, sys
rows = collections.defaultdict(dict)
for row in csv.DictReader(open(sys.argv[1], encoding="utf-8"), delimiter="\t"):
    rows[row["case"], row["round"]][row["who"]] = row
def is_quiet(pair):
    return all(float(row["others"]) < 0.06 and float(row["stolen"]) < 0.03 for row in pair.values())
print(f"{'case':26s} {'kinora s':>10s} {'torch s':>10s} {'torch / kinora':>15s} {'range':>14s}  quiet rounds")
for case in dict.fromkeys(case for case, _ in rows):
    pairs = [pair for (name, _), pair in rows.items() if name == case]
    quiet = [pair for pair in pairs if is_quiet(pair)]
    used = quiet if len(quiet) >= 3 else pairs
    seconds = {who: [float(pair[who]["median_s"]) for pair in used] for who in ("kinora", "torch")}
    ratios = [t / k for k, t in zip(seconds["kinora"], seconds["torch"])]
    note = "" if used is quiet else ", all used"
    print(f"{case:26s} {statistics.median(seconds['kinora']):10.5f} {statistics.median(seconds['torch']):10.5f} "
          f"{statistics.median(ratios):15.2f} {min(ratios):6.2f}..{max(ratios):<6.2f}  {len(quiet)} of {len(pairs)}{note}")
PY
