#!/usr/bin/env bash
# The program kinora from outside: exit statuses, where its output goes, what it says about mistakes.
# Usage: tests/test_tool.sh PROGRAM
set -uo pipefail
program=${1:?the program}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# run STATUS ARGUMENTS...: standard output and error go to $work/out and $work/error.
run() {
    local want=$1 got
    shift
    "$program" "$@" >"$work/out" 2>"$work/error"
    got=$?
    if [ "$got" -ne "$want" ]; then
        echo "FAILED: kinora $*: exit status $got, not $want: $(head -n 3 "$work/error")"
        failed=1
    fi
}
# says FILE TEXT: $work/FILE has the text.
says() {
    if ! grep -qF -- "$2" "$work/$1"; then
        echo "FAILED: \"$2\" is not in $1: $(head -n 3 "$work/$1")"
        failed=1
    fi
}
# silent FILE: $work/FILE is empty.
silent() {
    if [ -s "$work/$1" ]; then
        echo "FAILED: $1 is not empty: $(head -n 3 "$work/$1")"
        failed=1
    fi
}

run 0 --version
says out 'kinora 0.'
run 0 --help
says out 'check ops'
silent error
run 2
silent out
says error 'usage: kinora VERB'
run 2 paln
says error 'did you mean "plan"?'
run 2 chek ops
says error 'did you mean "check ops"?'
run 2 check
says error 'check case'
run 0 plan --help
says out '--size TxHxW'
run 2 plan STDiT-XL/2 --sise 16x256x256
says error 'did you mean --size?'
run 2 plan STDiT-XL/2 --size 16by256
says error '16by256'
run 2 plan STDiT-XL/2 --size 16x255x256
says error 'multiples of 8'
run 2 plan
run 2 plan sd-vae sd-vae
says error 'one operand too many'

run 0 plan STDiT-XL/2 --size 16x256x256 --train
says out 'STDiT-XL/2, one training step, 1 x 16x256x256, on null: 759620768 parameters'
says out 'lower bound'
says out 'largest at the peak'
run 0 plan STDiT-XL/2 --size=16x256x256 --json
says out '"parameters": 759620768'
silent error
run 0 plan t5-v1_1-small --text_length 7
says out '1 x 7 tokens'
run 1 plan STDiT-XL/2 --train --memory 8G
says error 'denoiser.blocks.0'
silent out
run 1 plan sd-vea
says error 'did you mean sd-vae?'
echo '{"d_model": 64, "d_kv": 8}' >"$work/config.json"
run 1 plan "$work/config.json"
says error config.json

run 0 plan STDiT-S/2 --size 2x64x64 --device cpu --nodes
says out ' fused into them'
says out ' with gated_add'
says out 'cpu_attention'
run 0 plan sd-vae --size 1x64x64 --device cpu --train
says out 'not as the model has it'
says out 'dense copies: cpu_group_norm_grad does not read input 0'
run 0 plan sd-vae --size 1x64x64 --device cpu --train --nodes --json
says out '"placement": "copy"'
run 0 plan STDiT-S/2 --size 2x64x64 --device cpu --train --recompute nothing --json
says out '"recomputed": 0,'
run 0 plan STDiT-S/2 --size 2x64x64 --device cpu --train --recompute cheap
says out ' compute again what was not kept'
run 2 plan STDiT-S/2 --train --recompute some
says error 'nothing, cheap or segments'
run 0 plan STDiT-S/2 --size 2x64x64 --device cpu --train --recompute cheap --nodes --json
says out '"fused": "add"'
says out '"again": true'
says out '"placement": "kernel"'

run 0 devices
says out 'cpu	'
says out 'null	'
run 0 env
says out 'left out	'
says out 'jansson	'
run 0 check ops --op add --dtype f32,bf16
says out 'total'
says out 'a device that is wrong was refused for 1 of 1 ops'
run 0 check ops --op softmax --json
says out '"part": "gradient"'
says out '"part": "views"'
says out '"ops_controlled": 1'
run 0 check gradients --op add --dtype f32 --json
says out '"failed": 0'
run 0 check model --model T5
says out 'ten training steps'
says out 'of T5 alone: lowered ops: none; would need: none'
run 0 check model
says out 'text-to-video inference: yes; training: yes; lowered ops: none; would need: none'
run 0 check model --model STDiT --compute bf16
run 0 check model --json
says out '"inference": true'
run 2 check model --model STDIT
says error 'did you mean "STDiT"?'
run 2 check model --compute i32
run 1 check model --device null
says out 'text-to-video inference: no'

run 0 check compare cpu cpu --output "$work/differs"
says out 'no node differs'
run 0 check compare cpu cpu --train --model 'SD VAE decoder' --json
says out '"differs": false'
run 0 check compare cpu cpu --model STDiT-S/2 --size 1x16x16 --text-length 3
run 1 check compare cpu cpuu
says error 'there is no device "cpuu"'
run 2 check compare cpu
run 1 check compare cpu cpu --model STDiX
mkdir "$work/full" && touch "$work/full/something"
run 2 check compare cpu cpu --output "$work/full"
says error 'holds no case'

printf '{"step": 5, "loss": 2}\n{"step": 10, "loss": 1.5, "mse": 1}\n' >"$work/a.jsonl"
printf '{"step": 5, "loss": 2.03}\n{"step": 10, "loss": 1.49, "mse": 2}\n' >"$work/b.jsonl"
printf '{"step": 5, "loss": 2.03}\n{"step": 9, "loss": 1.49}\n' >"$work/c.jsonl"
printf '{"step": 5, "loss": 2.03}\n{"step": 10, "loss": null}\n' >"$work/d.jsonl"
run 0 check curve "$work/a.jsonl" "$work/a.jsonl" --tolerance 0
run 0 check curve "$work/a.jsonl" "$work/b.jsonl"
says out '2 steps compared, 0 apart'
run 1 check curve "$work/a.jsonl" "$work/b.jsonl" --tolerance 0.01
says out '1 apart by more than 0.01; the worst is step 5'
run 1 check curve "$work/a.jsonl" "$work/b.jsonl" --key mse --json
says out '"worst_step": 10'
run 0 check curve "$work/a.jsonl" "$work/b.jsonl" --average 2 --tolerance 0.006 # 1.75 and 1.76
says out '1 steps compared, 0 apart'
run 1 check curve "$work/a.jsonl" "$work/b.jsonl" --average 2 --tolerance 0.005
run 2 check curve "$work/a.jsonl" "$work/b.jsonl" --average 3
says error 'logs 2 values, --average wants 3'
run 2 check curve "$work/a.jsonl" "$work/b.jsonl" --average 0
run 1 check curve "$work/a.jsonl" "$work/c.jsonl"
says error 'step 9 is logged by'
run 1 check curve "$work/a.jsonl" "$work/d.jsonl"
run 1 check curve "$work/a.jsonl" "$work/nothing.jsonl"
run 1 check curve "$work/a.jsonl" "$work/a.jsonl" --key los
head -c 30 "$work/a.jsonl" >"$work/e.jsonl"
run 1 check curve "$work/a.jsonl" "$work/e.jsonl"
says error 'line 2'

run 0 bench overhead --nodes 50 --min-time 0 --json "$work/overhead.json"
says out 'run again'
says out '0 allocations and 0 buffers'
run 2 bench overhead --nodes 0
run 2 check ops --op attentoin
says error 'did you mean attention?'
run 2 check ops --dtype f64
run 1 check ops --op add --device null
says out FAILED
run 1 check ops --device nul
says error 'there is no device "nul"'
run 1 check case "$work"

printf 'ten bytes.' >"$work/weights.safetensors"
run 1 info "$work/weights.safetensors"
says error weights.safetensors
run 1 info "$work/nothing"
says error nothing

if [ -e /dev/full ]; then
    "$program" --help >/dev/full 2>"$work/error"
    status=$?
    if [ "$status" -ne 1 ]; then
        echo "FAILED: a full disk under standard output: exit status $status, not 1"
        failed=1
    fi
fi
exit $failed
