#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test; ctest's summary comes last.
#
#   tools/test.sh               all tests, in build/test
#   tools/test.sh --sanitize    under AddressSanitizer and UBSan, in build/sanitize, without the
#                               tests labelled "slow"
#   tools/test.sh --fast        without the tests labelled "slow" (goes with --sanitize too)
#
# What else is given goes to ctest: tools/test.sh -R video
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/test
# One kind of GPU is enough to see that the CUDA backend compiles.
options=(-DKINORA_WERROR=ON -DBUILD_TESTING=ON -DKINORA_CUDA_ARCHS=90a)
choice=()
while [ $# -gt 0 ]; do
    case "$1" in
    --sanitize)
        folder=build/sanitize
        options+=(-DKINORA_SANITIZE=ON)
        choice=(-LE slow)
        ;;
    --fast) choice=(-LE slow) ;;
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) break ;;
    esac
    shift
done
# Reference cases of the original implementations, where they lie beside the clone.
if [ -d ../shared/reference ]; then options+=("-DKINORA_SHARED=$(cd ../shared && pwd)"); fi

tools/install.sh
if ! pkg-config --exists cmocka; then
    echo "test: cmocka is missing (libcmocka-dev): there would be nothing to run" >&2
    exit 1
fi
jobs=$(nproc)
cmake -G Ninja -S . -B "$folder" "${options[@]}"
cmake --build "$folder" -j "$jobs"
# Two tests of two threads each run on two processors: threads that wait must not spin.
export OMP_WAIT_POLICY=passive
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
exec ctest --test-dir "$folder" --output-on-failure --no-tests=error --timeout 600 -j "$jobs" \
    "${choice[@]}" "$@"
