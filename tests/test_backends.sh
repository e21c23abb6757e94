#!/usr/bin/env bash
# That plug-in backends came without a change above them. From the include graph: nothing in runtime/,
# ops/ or models/ reaches a file of a backend, and nothing that a plug-in includes, by whatever way, is
# a model or the definition of an op. From the registration lists: ops/list.c names ops and nothing
# else, and runtime/device.c the two built-in backends alone. Usage: tests/test_backends.sh [ROOT]
# Before the tree is looked at, a small tree is changed in each of these ways, and each must be found.
set -euo pipefail
root=$(cd "${1:-$(dirname "$0")/..}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Lines "FROM TO" for every include of a file of the tree, from the root of folder $1.
includes() {
    (
        cd "$1"
        # shellcheck disable=SC2016 # $0 is awk's
        find runtime ops models backends -type f \( -name '*.c' -o -name '*.h' -o -name '*.cc' \
            -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z |
            xargs -0 -r awk 'match($0, /^[ \t]*#[ \t]*include[ \t]*"[^"]*"/) {
                path = $0
                sub(/^[^"]*"/, "", path)
                sub(/".*/, "", path)
                print FILENAME, path
            }'
    )
}

# Of the graph on standard input: everything that files beginning with $1 reach, "FROM TO".
closure() {
    awk -v start="$1" '
        { to[$1] = to[$1] " " $2; if (index($1, start) == 1) first[$1] = 1 }
        function walk(from, at,   list, n, i) {
            n = split(to[at], list, " ")
            for (i = 1; i <= n; i++) {
                if ((from, list[i]) in seen) continue
                seen[from, list[i]] = 1
                print from, list[i]
                walk(from, list[i])
            }
        }
        END { for (from in first) walk(from, from) }'
}

# Code of C files without comments and texts.
code_of() {
    awk 'FNR == 1 { inside = 0 }
    {
        line = $0
        gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
        out = ""
        while (line != "") {
            if (inside) {
                at = index(line, "*/")
                if (!at) { line = ""; break }
                line = substr(line, at + 2)
                inside = 0
            } else {
                at = index(line, "/*")
                if (!at) { out = out line; break }
                out = out substr(line, 1, at - 1)
                line = substr(line, at + 2)
                inside = 1
            }
        }
        sub(/\/\/.*/, "", out)
        print FILENAME ": " out
    }' "$@"
}

# Prints one line for each fault of the tree in folder $1.
faults() {
    local tree=$1 name names=() sources=() pattern
    includes "$tree" | sort -u >"$work/graph"
    for layer in runtime/ ops/ models/; do
        closure "$layer" <"$work/graph" | awk '$2 ~ /^backends\// { print $1 " reaches " $2 }'
    done
    for folder in "$tree"/backends/*/; do
        name=$(basename "$folder")
        case "$name" in cpu | null) continue ;; esac
        names+=("$name")
        # ops/NAME_attrs.h and ops/elementwise_expr.h are data; what defines an op is not theirs.
        closure "backends/$name/" <"$work/graph" | awk '
            $2 ~ /^models\// { print $1 " reaches the model " $2 }
            $2 ~ /^ops\// && $2 !~ /^ops\/([a-z0-9_]+_attrs|elementwise_expr)\.h$/ {
                print $1 " reaches the definition of ops " $2 }'
    done
    # The list of ops holds &kin_op_... (or a macro that expands to them) and no device.
    (cd "$tree" && code_of ops/list.c) | grep -iE '\b(kin_backend|kin_device|kin_kernel)' |
        sed 's/$/ stands in the list of ops/' || true
    (cd "$tree" && code_of runtime/device.c runtime/device.h) | grep -oE 'kin_backend_[a-z0-9_]+' |
        grep -vE '^kin_backend_(cpu|null|file|files|get|get_fn)$' | sort -u |
        sed 's/$/ is registered in the runtime/' || true
    if [ ${#names[@]} -eq 0 ]; then return; fi
    # No code above the backends names one of them.
    pattern=$(IFS='|' && echo "${names[*]}")
    mapfile -t sources < <(cd "$tree" && find runtime ops models -name '*.[ch]' | sort)
    # (PyTorch's generator of random numbers on CUDA devices is a formula, not a backend.)
    (cd "$tree" && code_of "${sources[@]}") | sed 's/kin_torch_cuda//g' |
        grep -iE "(^|[^a-z0-9])(kin_)?($pattern)([^a-z0-9]|$)" | sed 's/^/names a plug-in: /' || true
}

# A small tree without a fault.
plant() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree"/{runtime,ops,models,backends/cpu,backends/vulkan}
    cd "$work/tree"
    printf '/* "cuda0", "vulkan1" */\nextern int kin_backend_cpu, kin_backend_null;\n' >runtime/device.h
    printf '#include "runtime/device.h"\nint *all[] = {&kin_backend_cpu, &kin_backend_null};\n' >runtime/device.c
    printf 'struct kin_kernel;\n' >runtime/backend.h
    printf 'struct conv_attrs;\n' >ops/conv_attrs.h
    printf '#include "ops/conv_attrs.h"\n#include "runtime/op.h"\n' >ops/conv.h
    printf 'struct kin_op;\n' >runtime/op.h
    printf '#include "ops/conv.h"\nconst int *list[] = {&kin_op_conv};\n' >ops/list.c
    printf '#include "ops/conv.h"\n' >models/vae.c
    printf '#include "runtime/backend.h"\n#include "ops/conv_attrs.h"\n' >backends/vulkan/conv.c
    printf '#include "runtime/backend.h"\n' >backends/cpu/cpu.c
    cd "$OLDPWD"
}

failed=0
# expect TEXT FILE LINE: with this line at its end, the file must be refused for this reason.
expect() {
    plant
    mkdir -p "$work/tree/$(dirname "$2")"
    printf '%b' "$3" >>"$work/tree/$2"
    if ! faults "$work/tree" | grep -qF -- "$1"; then
        echo "FAILED: \"$1\" was not noticed: $(faults "$work/tree")"
        failed=1
    fi
}
plant
if [ -n "$(faults "$work/tree")" ]; then
    echo "FAILED: a tree without a fault is refused: $(faults "$work/tree")"
    failed=1
fi
expect 'models/vae.c reaches backends/vulkan/v.h' models/vae.c '#include "backends/vulkan/v.h"\n'
expect 'ops/list.c reaches backends/vulkan/v.h' ops/conv.h '#include "backends/vulkan/v.h"\n'
expect 'backends/vulkan/conv.c reaches the model models/vae.h' backends/vulkan/conv.c '#include "models/vae.h"\n'
expect 'backends/vulkan/conv.c reaches the definition of ops ops/conv.h' runtime/backend.h '#include "ops/conv.h"\n'
expect 'stands in the list of ops' ops/list.c 'extern const kin_kernel extra;\n'
expect 'kin_backend_vulkan is registered in the runtime' runtime/device.c 'int *more = &kin_backend_vulkan;\n'
expect 'names a plug-in: models/vae.c' models/vae.c 'int is_vulkan = 0, vulkan;\n'
expect 'names a plug-in: ops/list.c' ops/list.c 'int y; /* a\n b */ int vulkan;\n'

found=$(faults "$root")
if [ -n "$found" ]; then
    echo "$found"
    failed=1
fi
count=$(find "$root/backends" -mindepth 1 -maxdepth 1 -type d ! -name cpu ! -name null | wc -l)
if [ "$count" -eq 0 ] || ! grep -q '^backends/' "$work/graph"; then
    echo "FAILED: $root has no plug-in backends: there is nothing to check"
    failed=1
else
    echo "$count plug-in backends: no file of models/ and no op's definition is reached, none is named"
fi
exit $failed
