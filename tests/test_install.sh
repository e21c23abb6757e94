#!/usr/bin/env bash
# The installed library as a stranger sees it: docs/example.c builds against it through pkg-config
# and through CMake and runs; libkinora.so has its SONAME and shows kin_ names alone; plug-ins are
# found, and those that cannot serve are refused by name. Usage: tests/test_install.sh BUILD
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "${1:?a build folder}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix="$work/prefix"
compiler=${CC:-cc}

fail() {
    echo "FAILED: $*"
    exit 1
}
# expect FILE TEXT: the file has a line with the text.
expect() {
    grep -qF -- "$2" "$1" || fail "no \"$2\" in the output: $(cat "$1")"
}

cmake --install "$build" --prefix "$prefix" >"$work/install.log" || fail "$(cat "$work/install.log")"
library=$(find "$prefix" -name libkinora.so)
[ -n "$library" ] || fail "libkinora.so is not installed"
folder=$(dirname "$library")
export PKG_CONFIG_PATH="$folder/pkgconfig"
export LD_LIBRARY_PATH="$folder"

# ---- the library's face ----
readelf -d "$library" >"$work/dynamic"
expect "$work/dynamic" 'soname: [libkinora.so.0]'
nm -D --defined-only "$library" | awk '{ print $3 }' >"$work/names"
grep -qx kin_plan_run "$work/names" || fail "kin_plan_run is not exported"
if grep -v '^kin_' "$work/names" >"$work/strange"; then
    fail "exported beside kin_...: $(head -n 5 "$work/strange")"
fi
if find "$prefix/include" -name '*_internal.h' -o -name '*_private.h' | grep .; then
    fail "private headers are installed"
fi
# Every installed header stands alone.
for header in $(cd "$prefix/include/kinora" && find . -name '*.h' | sed 's,^\./,,'); do
    echo "#include \"$header\"" >"$work/header.c"
    # shellcheck disable=SC2046
    "$compiler" -std=c11 -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags kinora) \
        "$work/header.c" || fail "$header does not stand alone"
done

# ---- the example ----
# softmax of (1, 2.5, 7) and of (-1, 0.5, 1)
printf '0.0024 0.0110 0.9866\n0.0777 0.3482 0.5741\n' >"$work/want"
# shellcheck disable=SC2046
"$compiler" -std=c11 -Wall -Wextra -Werror -o "$work/by-pkg-config" "$tree/docs/example.c" \
    $(pkg-config --cflags --libs kinora)
"$work/by-pkg-config" >"$work/got"
diff "$work/want" "$work/got" || fail "the example built with pkg-config prints something else"

mkdir "$work/project"
cp "$tree/docs/example.c" "$work/project"
cat >"$work/project/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(example LANGUAGES C)
find_package(Kinora 0.1 REQUIRED)
add_executable(example example.c)
target_link_libraries(example PRIVATE Kinora::kinora)
CMAKE
{
    cmake -S "$work/project" -B "$work/project/build" -DCMAKE_PREFIX_PATH="$prefix"
    cmake --build "$work/project/build"
} >"$work/cmake.log" 2>&1 || fail "$(cat "$work/cmake.log")"
"$work/project/build/example" >"$work/got"
diff "$work/want" "$work/got" || fail "the example built with CMake prints something else"

# ---- plug-ins ----
plugins="$work/plugins"
mkdir "$plugins"
echo 'this is no library' >"$plugins/libkinora-text.so"
echo 'int nothing;' >"$work/empty.c"
"$compiler" -shared -fPIC -o "$plugins/libkinora-empty.so" "$work/empty.c"
# A whole backend of a third party, with no device: the installed headers and library are enough.
cat >"$work/absent.c" <<'PLUGIN'
#include "runtime/backend.h"
static int count(kin_context *context, const char **out_why) {
    kin_log(context, KIN_LOG_DEBUG, "absent: counting devices");
    *out_why = "no such hardware in this test";
    return 0;
}
static kin_status refuse(kin_device *device) {
    return kin_fail(device->context, KIN_DEVICE, "absent: there is no device");
}
static kin_status open_device(kin_device *d, int i) { (void)i; return refuse(d); }
static void close_device(kin_device *d) { (void)d; }
static const kin_kernel *kernel(const kin_device *d, size_t i) { (void)d, (void)i; return 0; }
static kin_status allocate(kin_device *d, size_t n, kin_buffer **b) { (void)n, (void)b; return refuse(d); }
static void release(kin_device *d, kin_buffer *b) { (void)d, (void)b; }
static kin_status upload(kin_device *d, const void *s, kin_buffer *b, size_t o, size_t n) { (void)s, (void)b, (void)o, (void)n; return refuse(d); }
static kin_status download(kin_device *d, kin_buffer *b, size_t o, void *t, size_t n) { (void)b, (void)o, (void)t, (void)n; return refuse(d); }
static kin_status copy(kin_device *d, kin_buffer *s, size_t so, kin_buffer *t, size_t to, size_t n) { (void)s, (void)so, (void)t, (void)to, (void)n; return refuse(d); }
static kin_status fill(kin_device *d, kin_buffer *b, size_t o, size_t n, uint8_t v) { (void)b, (void)o, (void)n, (void)v; return refuse(d); }
static kin_status begin(kin_device *d, kin_commands **c) { (void)c; return refuse(d); }
static kin_status record(kin_device *d, kin_commands *c, const kin_kernel *k, const kin_call *l) { (void)c, (void)k, (void)l; return refuse(d); }
static kin_status end(kin_device *d, kin_commands *c) { (void)c; return refuse(d); }
static kin_status wait_for(kin_device *d) { (void)d; return KIN_OK; }
static void discard(kin_device *d, kin_commands *c) { (void)d, (void)c; }
static const kin_backend backend = {
    .abi = KIN_BACKEND_ABI, .struct_size = sizeof(kin_backend), .name = "absent", .count = count,
    .open = open_device, .close = close_device, .kernel = kernel, .allocate = allocate,
    .release = release, .upload = upload, .download = download, .copy = copy, .fill = fill,
    .begin = begin, .record = record, .end = end, .submit = end, .wait = wait_for,
    .discard = discard};
KIN_API const kin_backend *kin_backend_get(uint32_t abi);
const kin_backend *kin_backend_get(uint32_t abi) { return abi == KIN_BACKEND_ABI ? &backend : 0; }
PLUGIN
# shellcheck disable=SC2046
"$compiler" -std=c11 -Wall -Wextra -Werror -shared -fPIC -fvisibility=hidden \
    -o "$plugins/libkinora-absent.so" "$work/absent.c" $(pkg-config --cflags --libs kinora)
KINORA_BACKEND_PATH="$plugins" "$prefix/bin/kinora" devices >"$work/devices" 2>&1 ||
    fail "kinora devices: $(cat "$work/devices")"
expect "$work/devices" cpu
expect "$work/devices" libkinora-text.so
expect "$work/devices" 'does not export kin_backend_get'
expect "$work/devices" 'loaded: absent'
expect "$work/devices" 'no such hardware in this test'
echo "installed: $(wc -l <"$work/names") names, $(find "$prefix/include" -name '*.h' | wc -l) headers"
