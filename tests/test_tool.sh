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

run 0 devices
says out 'cpu	'
says out 'null	'
run 0 env
says out 'left out	'
says out 'jansson	'
run 0 check ops --op add --dtype f32,bf16
says out 'total'
run 0 check gradients --op add --dtype f32 --json
says out '"failed": 0'
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
