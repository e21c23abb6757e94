#!/usr/bin/env bash
# The machine code of the CUDA plug-in: what registers, spills and instructions its kernels came to.
#   plugin_cuda_code.sh                checks libkinora-cuda.so in KINORA_BACKEND_PATH
#   plugin_cuda_code.sh --list FILE    prints what was found in a plug-in, a kernel a line
#   plugin_cuda_code.sh --check FILE   checks what --list printed
# Skipped (77) where the plug-in was not built or cuobjdump of the CUDA toolkit is missing.
# shellcheck disable=SC2016 # programs for awk
set -euo pipefail
export LC_ALL=C

# What may lie in a thread's own memory, in bytes: architecture, kernel, most, reason. All other
# kernels use none. The rows are regular expressions over names without namespaces and parameters.
may_use='
.* map<f_(sin|cos)(_grad)?, 32 an angle beyond 1e5 is reduced with a table
.* (features|draw<true>)$ 32 the same
.* rope< 40 the same
.* self_turns$ 96 the same, in double
.* attention_grad_short<.*,_(80|96), 144 registers, outside of the loops with products
.* attention_grad_short<.*,_128, 200 the same; no model has short sequences of such heads
sm_90a attention_forward_mma<.*,_(80|128), 32 registers; Hopper has a kernel of its own for these sizes
.* attention_(forward|grad_key)_plain<512, 48 head size 512, one head of an autoencoder
.* map<f_div,_f_none,_2,_8> 8 the slow way of a division
.* (norm_columns|reduce_wide<false>|norm_means<256,_1>)$ 24 around divisions of 64 bits
'
# Instructions that kernels must have: architecture, kernel, instruction; each row names kernels
# that are there.
must_have='
sm_90a attention_.*_hopper< HGMMA
sm_90a attention_.*_hopper< UTMALDG
sm_90a conv_.*_hopper HGMMA
sm_90a conv_.*_hopper UTMALDG
.* attention_.*_mma< HMMA
.* conv_.*_mma< HMMA
.* attention_(forward|grad_.*)_mma< LDGSTS.*128
.* conv_.*_mma< LDGSTS.*128
.* map<.*,_8>$ LDG.*128
.* move<bytes_16> LDG.*128
.* (softmax|softmax_grad|norm|norm_dx)<(32|256),_8> LDG.*128
.* adamw(_joined)?$ LDG.*128
.* adamw(_joined)?$ STG.*128
.* squares LDG.*128
'
# Kernels that compute in double: sums of squares of gradients, and the reduction of large angles.
double='^((squares|root)$|map<f_(sin|cos)|(features|draw<true>|self_turns)$|rope<)'

# One line for each kernel and architecture, with tabs: architecture, kernel, registers, bytes of its
# own memory, most threads (1024 unless it says), instructions with their numbers.
list() {
    local file=$1
    {
        cuobjdump -res-usage "$file"
        cuobjdump -elf "$file" | grep -E '^(arch = |\.nv\.info\.|.*Attribute:.*EIATTR_MAX_THREADS|.*Value:.*0x)'
        cuobjdump -sass "$file"
    } | awk -v OFS='\t' '
        /^arch = / {arch = $3}
        arch !~ /^sm_/ {next}
        /^ *Function [^:]+:$/ {kernel = $2; sub(/:$/, "", kernel); next}
        /REG:[0-9]+ STACK:/ {
            match($0, /REG:[0-9]+/); registers[arch OFS kernel] = substr($0, RSTART + 4, RLENGTH - 4)
            match($0, /STACK:[0-9]+/); stack[arch OFS kernel] = substr($0, RSTART + 6, RLENGTH - 6)
            next
        }
        /^\.nv\.info\./ {kernel = $1; sub(/^\.nv\.info\./, "", kernel); next}
        /EIATTR_MAX_THREADS/ {wants = 1; next}
        wants && /Value:/ {threads[arch OFS kernel] = $2; wants = 0; next}
        /^[ \t]*Function : / {kernel = $3; next}
        match($0, /(^|[^A-Z])(HGMMA|HMMA|UTMALDG|UTMASTG|LDG|LDGSTS|STG|LD|LDL|STL|DFMA|DADD|DMUL|F2F)[.A-Z0-9a-z]*/) {
            op = substr($0, RSTART, RLENGTH); sub(/^[^A-Z]/, "", op)
            count[arch OFS kernel OFS op]++
        }
        END {
            for (k in count) {split(k, part, OFS); ops[part[1] OFS part[2]] = ops[part[1] OFS part[2]] " " part[3] "=" count[k]}
            for (k in registers) print k, registers[k], stack[k], (k in threads) ? threads[k] : "0x400", ops[k]
        }' | c++filt | sed -E 's/\(anonymous namespace\):://g; s/_GLOBAL__N__[0-9a-f]+_[0-9]+_[a-z_]+_cu_[0-9a-f]+:://g
            s/\tvoid /\t/; s/ *\([^\t]*\)\t/\t/; s/, /,_/g' | sort
}

# check FILE: says what is wrong with such a list, a line each.
check() {
    awk -F '\t' -v may_use="$may_use" -v must_have="$must_have" -v double="$double" '
        function hex(text,   i, value) {
            value = 0
            for (i = 3; i <= length(text); i++)
                value = 16 * value + index("0123456789abcdef", tolower(substr(text, i, 1))) - 1
            return value
        }
        BEGIN {
            uses = split(may_use, use, "\n"); needs = split(must_have, need, "\n")
            for (i = 1; i <= needs; i++) # an instruction ends at a blank
                if (split(need[i], part, " ") == 3) {
                    gsub(/\.\*/, "[^ ]*", part[3])
                    need[i] = part[1] " " part[2] " " part[3]
                    gsub(/\[\^ \]/, "[^=]", need[i])
                }
        }
        {
            arch = $1; kernel = $2; name = arch ": " kernel
            seen[arch] = 1
            split($5, block, " "); threads = hex(block[1])
            held = int(($3 + 7) / 8) * 8 * int((threads + 31) / 32) * 32
            if (held > 65536) print name " cannot start with " threads " threads of " $3 " registers"
            most = 0
            for (i = 1; i <= uses; i++)
                if (split(use[i], part, " ") > 2 && arch ~ "^" part[1] "$" && kernel ~ "^" part[2] && part[3] > most)
                    most = part[3]
            if ($4 > most) print name " has " $4 " bytes of its own memory for spills or arrays, of " most
            if ($4 == 0 && $6 ~ / (LDL|STL)/) print name " reads or writes memory of its own"
            for (i = 1; i <= needs; i++)
                if (split(need[i], part, " ") == 3 && arch ~ "^" part[1] "$" && kernel ~ "^" part[2]) {
                    met[i OFS arch]++
                    if ($6 !~ " " part[3]) print name " lacks " part[3]
                }
            if ($6 ~ / (DFMA|DADD|DMUL|F2F\.F64)/ && kernel !~ double) print name " computes in double"
        }
        END {
            for (i = 1; i <= needs; i++)
                if (split(need[i], part, " ") == 3)
                    for (arch in seen)
                        if (arch ~ "^" part[1] "$" && !((i OFS arch) in met)) print arch ": there is no kernel " part[2]
        }' "$1"
}

# Sets `plugin`, and finds the tools.
find_all() {
    local folder tool
    IFS=: read -ra folders <<<"${KINORA_BACKEND_PATH:-}"
    for folder in "${folders[@]}"; do
        if [ -e "$folder/libkinora-cuda.so" ]; then plugin=$folder/libkinora-cuda.so; fi
    done
    if [ -z "$plugin" ]; then
        echo "skipped: the plug-in cuda was not built"
        exit 77
    fi
    for tool in cuobjdump c++filt; do
        command -v $tool >/dev/null || PATH=$PATH:/usr/local/cuda/bin
        command -v $tool >/dev/null || {
            echo "skipped: there is no $tool"
            exit 77
        }
    done
}

plugin=
case ${1:-} in
--list)
    list "$2"
    exit 0
    ;;
--check) ;;
*) find_all ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
if [ -n "$plugin" ]; then list "$plugin" >"$work/code"; else cp "$2" "$work/code"; fi
kernels=$(wc -l <"$work/code")
if [ "$kernels" -lt 100 ]; then
    echo "FAILED: $kernels kernels were found"
    exit 1
fi
check "$work/code" >"$work/faults"
if [ -s "$work/faults" ]; then
    echo "FAILED:"
    cat "$work/faults"
    failed=1
fi

# refused TEXT AWK-PROGRAM: the list, made wrong so, is refused with that text.
refused() {
    awk -F '\t' -v OFS='\t' "$2" "$work/code" >"$work/wrong"
    if cmp -s "$work/code" "$work/wrong"; then
        echo "FAILED: nothing to make wrong: $1"
        failed=1
    fi
    check "$work/wrong" >"$work/out"
    if ! grep -q "$1" "$work/out"; then
        echo "FAILED: not noticed: $1"
        failed=1
    fi
}
refused 'cannot start with 1024 threads' '$2 == "squares" {$3 = 65; $5 = "0x400 0x1 0x1"} {print}'
refused 'squares has 16 bytes of its own memory' '$2 == "squares" {$4 = 16} {print}'
refused 'squares reads or writes memory' '$2 == "squares" {$6 = $6 " STL=1"} {print}'
refused 'lacks HMMA' '$2 ~ /^attention_forward_mma/ {gsub(/HMMA/, "FFMA")} {print}'
refused 'lacks LDG' '$2 == "adamw" {gsub(/LDG.E.128/, "LDG.E")} {print}'
refused 'computes in double' '$2 == "adamw" {$6 = $6 " DFMA=2"} {print}'
refused 'there is no kernel squares' '$2 != "squares" {print}'
if grep -q '^sm_90a' "$work/code"; then
    refused 'lacks HGMMA' '$2 ~ /^attention_.*_hopper/ {gsub(/HGMMA/, "HMMA")} {print}'
fi
if [ $failed = 0 ]; then echo "$kernels kernels"; fi
exit $failed
