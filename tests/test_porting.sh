#!/usr/bin/env bash
# Holds the numbers of docs/porting.md to the tree. Usage: tests/test_porting.sh [--write]
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/porting.md
first='| file | lines | functions | what is in it |'

# Functions end in a lone brace in the first column.
functions() { grep -c '^}$' "$1" || true; }

# The table: file, lines, functions, and the first sentence of the file's comment.
table() {
    local file what lines=0 count=0
    echo "$first"
    echo '|---|---|---|---|'
    for file in backends/null/null.c backends/npu/CMakeLists.txt backends/npu/*.h backends/npu/*.c; do
        case $file in
        *.txt) what='The project: find_package(Kinora), one module' ;;
        *) what=$(sed -n '1,/\*\//p' "$file" | tr '\n' ' ' | sed -E 's,^/\* ?,,; s, \*/.*,,; s, \* , ,g; s,  +, ,g; s,([^.:]*)[.:].*,\1,') ;;
        esac
        echo "| \`$file\` | $(wc -l <"$file") | $(functions "$file") | $what |"
        if [ "${file#backends/npu/}" != "$file" ]; then
            lines=$((lines + $(wc -l <"$file")))
            count=$((count + $(functions "$file")))
        fi
    done
    echo "| all of \`backends/npu\` | $lines | $count | |"
}

# The table as the page has it.
written() { sed -n "/^| file | lines | functions/,/^<!-- end -->/p" "$page" | grep '^|'; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table >"$work/table"
if [ "${1:-}" = --write ]; then
    awk -v table="$work/table" '
        /^\| file \| lines \| functions/ { while ((getline line < table) > 0) print line; inside = 1; next }
        /^<!-- end -->/ { inside = 0 }
        !inside' "$page" >"$work/page"
    cp "$work/page" "$page"
fi
if ! diff <(written) "$work/table"; then
    echo "FAILED: $page has other numbers than the tree: tests/test_porting.sh --write"
    exit 1
fi
# The list of primitives in the page is that of docs/ops.md: each must be named in its section 4, or be
# one of the element-wise functions.
sed -n '/^## 4/,/^## 5/p' "$page" >"$work/section"
missing=0
while read -r op; do
    grep -q "\`$op\`" "$work/section" && continue
    grep -qE "^ *X\(${op%_grad}," ops/elementwise_expr.h && continue
    echo "FAILED: $page does not say where $op is made"
    missing=1
done < <(grep -E '\| (primitive|update) \|' docs/ops.md | sed -E 's/^\| `([a-z0-9_]+)`.*/\1/')
exit $missing
