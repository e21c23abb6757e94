#!/usr/bin/env bash
# bench/gpu_table.sh without a GPU: what it lists, a dry run, some parts on cuda-emulated with tiny
# sizes, going on where it stopped, and parts that fail. Uses KINORA_CLI and KINORA_BACKEND_PATH.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
script=$root/bench/gpu_table.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
complain() {
    echo "FAILED: $*"
    cat "$work/out"
    failed=1
}

if command -v shellcheck >/dev/null; then shellcheck "$script" || failed=1; fi

"$script" --list >"$work/out"
for part in build ops_f32 ops_bf16 ops_f16 models cases memcheck racecheck initcheck synccheck code hopper hopper_conv \
    hopper_check collectives demo shapes shapes_hopper bench_ops overhead memory job_plan job_train; do
    grep -q "^$part " "$work/out" || complain "--list has no $part"
done
awk '$2 > 600 {exit 1}' "$work/out" || complain "a part may outlast a call of ten minutes"

"$script" --output "$work/dry" --dry-run >"$work/out" 2>&1 || complain "the dry run"
[ "$(grep -c 'would run' "$work/out")" = "$("$script" --list | wc -l)" ] || complain "the dry run leaves parts out"
if [ -n "$(ls "$work/dry/parts")" ]; then complain "the dry run did something"; fi

for wrong in '--part nothing' '--budget soon' '--what' ''; do
    # shellcheck disable=SC2086 # split into its words
    if "$script" ${wrong:+--output "$work/wrong"} $wrong >"$work/out" 2>&1; then complain "took \"$wrong\""; fi
done

# table ARGUMENT...: with tiny sizes on the emulator.
table() {
    "$script" --output "$work/table" --kinora "$KINORA_CLI" --device cuda-emulated0 --small \
        --commit 1234abc "$@" >"$work/out" 2>&1
}
parts=(--part machine --part bench_ops)
table "${parts[@]}" --copy "$work/copy" || complain "tiny parts"
grep -q '^machine: ok' "$work/out" || complain "machine"
grep -q '^bench_ops: ok' "$work/out" || complain "bench_ops"
for file in table.md table.json logs.tar.gz; do
    [ -s "$work/copy/$file" ] || complain "--copy left $file out"
done
grep -q '^Commit 1234abc' "$work/table/table.md" || complain "no commit in the table"
grep -q '^# The CUDA backend on the host as a GPU' "$work/table/table.md" || complain "no device in the table"
grep -q '| bench_ops |.*| ok |' "$work/table/table.md" || complain "no verdict in the table"
if command -v python3 >/dev/null; then
    python3 - "$work/table/table.json" <<'PYTHON' >>"$work/out" 2>&1 || complain "table.json"
import json
import sys
table = json.load(open(sys.argv[1]))
assert table["commit"] == "1234abc", table
assert sorted(part["name"] for part in table["parts"]) == ["bench_ops", "machine"], table
assert all(part["status"] == 0 and part["log"] for part in table["parts"]), table
PYTHON
fi

table "${parts[@]}" || complain "going on"
[ "$(grep -c 'done before' "$work/out")" = 2 ] || complain "parts were done again"
table "${parts[@]}" --again || complain "--again"
if grep -q 'done before' "$work/out"; then complain "--again did nothing"; fi

# Training, alone and by two ranks, on the CPU: the emulator would take long.
"$script" --output "$work/train" --kinora "$KINORA_CLI" --device cpu --small --commit 1234abc \
    --part job_train --part collectives >"$work/out" 2>&1 || complain "training"
if ! grep -q 'skipped' "$work/train/parts/job_train.txt"; then
    grep -q 'clips a second' "$work/train/parts/job_train.txt" || complain "job_train tells no speed"
    [ "$(grep -c '"loss".*"loss"' "$work/train/parts/collectives.txt")" = 5 ] || complain "collectives"
fi

# A part that fails is told, and the next one runs.
if table --device cuda-emulated7 --again "${parts[@]}" --part overhead; then complain "no device, and all is well"; fi
grep -q '^bench_ops: failed' "$work/out" || complain "a failure is not told"
grep -q '^overhead: failed' "$work/out" || complain "the part behind a failure did not run"
grep -q '| bench_ops |.*| failed |' "$work/table/table.md" || complain "no failure in the table"
exit $failed
