#!/usr/bin/env bash
# Holds the source tree to its layers (docs/architecture.md): who includes whom, what the library
# must not call, and how long a file may be. Usage: tests/test_layers.sh [ROOT]
# Before the tree is looked at, small bad trees are made, and each must be refused for its reason.
set -euo pipefail
root=$(cd "${1:-$(dirname "$0")/..}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Prints one line for each fault of the tree in folder $1.
faults() {
    (
        cd "$1"
        folders=()
        for folder in runtime ops models backends tools bench tests docs; do
            if [ -d "$folder" ]; then folders+=("$folder"); fi
        done
        find "${folders[@]}" -type f \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' \
            -o -name '*.cuh' -o -name '*.cl' -o -name '*.comp' -o -name '*.py' -o -name '*.sh' \) \
            -print0 | sort -z | xargs -0 -r awk -f "$work/rules.awk"
    )
}

cat >"$work/rules.awk" <<'AWK'
function fault(text) { printf "%s:%d: %s\n", FILENAME, FNR, text }

# The layer of a path, with the backend's name for backends.
function layer_of(path,   part) {
    split(path, part, "/")
    return part[1] == "backends" ? part[1] "/" part[2] : part[1]
}

function may_include(from, to, path) {
    if (from == to || from ~ /^(tools|bench|tests|docs)$/) return 1
    if (from == "runtime") return 0
    if (from == "ops") return to == "runtime"
    if (from == "models") return to == "runtime" || to == "ops"
    if (path ~ /^runtime\/(backend|tensor|context|device|philox|file)\.h$/) return 1
    if (path ~ /^ops\/[a-z0-9_]+_attrs\.h$/ || path == "ops/elementwise_expr.h") return 1
    # The null backend has one row for every op.
    return from == "backends/null" && path == "runtime/op.h"
}

FNR == 1 {
    layer = layer_of(FILENAME)
    library = layer ~ /^(runtime|ops|models|backends\/.*)$/ && FILENAME !~ /\.(py|sh)$/
    code = FILENAME !~ /\.(py|sh)$/
}
FNR == 1001 { fault("more than 1000 lines") }

code && match($0, /^[ \t]*#[ \t]*include[ \t]*"[^"]*"/) {
    path = $0
    sub(/^[^"]*"/, "", path)
    sub(/".*/, "", path)
    to = layer_of(path)
    if (layer == "docs" && path ~ /^(runtime|ops|models)\//) next
    # A project of its own, whose headers lie in its folder.
    if (layer == "backends/npu" && path !~ /\//) next
    if (to !~ /^(runtime|ops|models|backends\/[a-z0-9_]+|tools|bench|tests)$/)
        fault("\"" path "\" is not written from the root")
    else if (!may_include(layer, to, path))
        fault(layer " must not include " path)
    else if (path ~ /_(internal|private)\.h$/ && to != layer && layer != "tests")
        fault(path " is for " to " alone")
    else if (layer == "models" && path ~ /^runtime\/(backend|device)\.h$/)
        fault("a model knows no device: " path)
}

# Not a call where it stands in a comment of its own line or behind a letter: snprintf is fine.
library {
    line = $0
    gsub(/\/\*[^*]*\*\//, " ", line)
    sub(/\/\/.*/, "", line)
    if (line ~ /^[ \t]*(\*|\/\*)/) line = ""
    gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
    line = " " line
    if (line ~ /[^A-Za-z0-9_.>](printf|vprintf|puts|putchar|perror)[ \t]*\(/ ||
        line ~ /[^A-Za-z0-9_](fprintf|vfprintf)[ \t]*\([ \t]*(stderr|stdout)/ ||
        line ~ /[^A-Za-z0-9_](fputs|fputc|putc|fwrite)[ \t]*\(.*[^A-Za-z0-9_](stderr|stdout)/)
        fault("the library does not print")
    if (line ~ /[^A-Za-z0-9_.>](exit|_exit|_Exit|quick_exit|abort|assert)[ \t]*\(/)
        fault("the library does not end the process")
    if (line ~ /[^A-Za-z0-9_.>](getenv|secure_getenv|setenv|putenv)[ \t]*\(/)
        fault("the library does not touch the environment")
    if (layer == "models" &&
        tolower(line) ~ /[^a-z0-9_](cuda|opencl|vulkan|avx2|avx512|neon|kin_device[a-z_]*|kin_backends?[a-z_]*|kin_kernel|kin_buffer)[^a-z0-9]/)
        fault("a model names no device")
}
AWK

failed=0
# refuse NAME FILE TEXT REASON: a tree with this one file must be refused for this reason.
refuse() {
    local tree="$work/$1"
    mkdir -p "$tree/$(dirname "$2")"
    printf '%b' "$3" >"$tree/$2"
    if ! faults "$tree" | grep -qF -- "$4"; then
        echo "FAILED: $1: \"$4\" was not noticed in $2"
        failed=1
    fi
}
# accept NAME FILE TEXT: a tree with this one file has no fault.
accept() {
    local tree="$work/$1" found
    mkdir -p "$tree/$(dirname "$2")"
    printf '%b' "$3" >"$tree/$2"
    found=$(faults "$tree")
    if [ -n "$found" ]; then
        echo "FAILED: $1: refused without a reason: $found"
        failed=1
    fi
}

refuse upward runtime/a.c '#include "ops/conv.h"\n' 'runtime must not include ops/conv.h'
refuse op-to-model ops/a.c '#include "models/t5.h"\n' 'ops must not include models/t5.h'
refuse op-to-backend ops/a.h '#  include "backends/cpu/cpu.h"\n' 'ops must not include backends/cpu'
refuse model-to-tool models/a.c '#include "tools/tool.h"\n' 'models must not include tools/tool.h'
refuse model-device models/a.c '#include "runtime/device.h"\n' 'a model knows no device'
refuse model-names models/a.c 'if (kin_device_open(b, "x", &d)) return;\n' 'a model names no device'
refuse backend-graph backends/x/a.c '#include "runtime/graph.h"\n' 'must not include runtime/graph.h'
refuse backend-op backends/x/a.c '#include "ops/conv.h"\n' 'must not include ops/conv.h'
refuse backends backends/x/a.c '#include "backends/cpu/simd.h"\n' 'must not include backends/cpu'
refuse relative ops/a.c '#include "conv.h"\n' 'is not written from the root'
refuse third-party backends/npu/a.c '#include "runtime/graph.h"\n' 'must not include runtime/graph.h'
refuse private ops/a.c '#include "runtime/graph_internal.h"\n' 'is for runtime alone'
refuse print runtime/a.c 'void f(void) {\n    printf("x");\n}\n' 'does not print'
refuse print-error backends/x/a.c '    fprintf(stderr, "x");\n' 'does not print'
refuse ends runtime/a.c '    if (x) abort();\n' 'does not end the process'
refuse ends-too ops/a.h 'static inline void f(void) { exit(1); }\n' 'does not end the process'
refuse environment models/a.c '    const char *x = getenv("HOME");\n' 'does not touch the environment'
refuse long tools/a.c "$(printf '\\n%.0s' $(seq 1001))x" 'more than 1000 lines'
accept fine runtime/a.c '#include "runtime/op.h"\n/* never printf() */\nint n = snprintf(t, 4, "exit(1)");\n'
accept fine-backend backends/x/a.c '#include "runtime/backend.h"\n#include "ops/conv_attrs.h"\n'
accept fine-third-party backends/npu/a.c '#include "npu.h"\n#include "runtime/backend.h"\n'
accept fine-tool tools/a.c '#include "models/t5.h"\nint f(void) { printf("x"); exit(1); }\n'

found=$(faults "$root")
if [ -n "$found" ]; then
    echo "$found"
    failed=1
fi
for folder in runtime ops models backends tools tests; do
    if [ ! -d "$root/$folder" ]; then
        echo "FAILED: $root has no $folder: there is nothing to check"
        failed=1
    fi
done
exit $failed
