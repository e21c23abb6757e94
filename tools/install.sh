#!/usr/bin/env bash
# Installs what tools/packages.txt lists and this machine lacks (Debian 12), as root or through sudo.
# Says nothing where nothing is missing. An optional package that cannot be installed is told and
# left out: the build says what it does without.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "install: this is not Debian; tools/packages.txt lists what is needed" >&2
    exit 0
fi

required=()
optional=()
while read -r kind package rest; do
    case "$kind" in '' | '#'*) continue ;; esac
    if [ -z "$package" ] || [ -n "$rest" ]; then
        echo "install: tools/packages.txt: \"$kind $package $rest\" is not \"kind package\"" >&2
        exit 1
    fi
    if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ]; then
        continue
    fi
    if [ "$kind" = build ]; then required+=("$package"); else optional+=("$package"); fi
done <tools/packages.txt
if [ $((${#required[@]} + ${#optional[@]})) -eq 0 ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install: missing: ${required[*]} ${optional[*]}; run this as root, or install sudo" >&2
        [ ${#required[@]} -eq 0 ] && exit 0
        exit 1
    fi
    as_root=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        -o Acquire::Retries=3 "$@" >>"$log" 2>&1
}
add() {
    get install -y --no-install-recommends "$@"
}

echo "install: ${required[*]} ${optional[*]}"
get update || echo "install: apt-get update failed; going on with the lists that are there" >&2
if [ ${#required[@]} -gt 0 ] && ! add "${required[@]}"; then
    tail -n 20 "$log" >&2
    echo "install: cannot install ${required[*]}" >&2
    exit 1
fi
# All at once is quicker; one by one finds the one that does not go.
if [ ${#optional[@]} -gt 0 ] && ! add "${optional[@]}"; then
    for package in "${optional[@]}"; do
        add "$package" || echo "install: $package cannot be installed and is left out" >&2
    done
fi
