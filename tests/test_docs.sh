#!/usr/bin/env bash
# The pages against the tree: files they name exist, links lead somewhere, line counts are about right,
# every key of a training configuration is described, and the README names the two commands.
# shellcheck disable=SC2016 # backticks in patterns are meant
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
fault() {
    echo "FAILED: $*"
    failed=1
}
pages=(README.md CONTRIBUTING.md docs/*.md)

for page in "${pages[@]}"; do
    # `folder/file.c` and the like in backticks, from the root
    while read -r file; do
        if [ ! -e "$file" ]; then fault "$page names $file, which is not there"; fi
    done < <(grep -oE '`(runtime|ops|models|backends|tools|tests|docs|bench)/[A-Za-z0-9_./-]+\.(c|h|cc|sh|md|txt)`' \
        "$page" | tr -d '`' | sort -u)
    # [text](file)
    while read -r file; do
        if [ ! -e "$(dirname "$page")/$file" ]; then fault "$page links to $file"; fi
    done < <(grep -oE '\]\([^)#]+\)' "$page" | sed 's/^](//; s/)$//' | grep -vE '^https?:' | sort -u)
    # `file` | 12 |  or  `file` (12 lines
    while read -r file lines; do
        have=$(wc -l <"$file")
        if [ $((have * 10)) -lt $((lines * 9 - 20)) ] || [ $((have * 10)) -gt $((lines * 11 + 20)) ]; then
            fault "$page: $file has $have lines, not about $lines"
        fi
    done < <(grep -oE '`[a-z]+/[a-z0-9_/]+\.[ch]`( \| [0-9]+ \|| \([0-9]+ lines)' "$page" |
        sed -E 's/`([^`]+)`[^0-9]*([0-9]+).*/\1 \2/')
done

# Strings of the lists of keys of training configurations
keys=$(sed -n '/_keys\[\] = {/,/};/p; /kin_frame_mask_names\[KIN_MASK_KINDS\] = {/,/};/p' \
    tools/train/train_config.c tools/train/train_config_video.c tools/train/train_masks.c | grep -oE '"[a-z0-9_]+"' | tr -d '"')
[ "$(wc -w <<<"$keys")" -gt 30 ] || fault "tools/train/train_config*.c: the lists of keys are not found"
for key in $keys; do
    grep -q "\`$key\`" docs/training.md || fault "docs/training.md does not describe \"$key\""
done
for key in task output data csv steps learning_rate; do
    grep -qx "$key" <<<"$keys" || fault "the key \"$key\" was not found in tools/train/train_config*.c"
done
# Verbs of the program in its man page
verbs=$(sed -n '/kin_verbs\[\] = {/,/};/p' tools/verbs.c | grep -oE '^    \{"[a-z ]+"' | cut -d'"' -f2)
[ "$(wc -l <<<"$verbs")" -gt 5 ] || fault "tools/verbs.c: the table of verbs is not found"
while read -r verb; do
    grep -qE "^\.BI? \"?$verb" docs/kinora.1 || fault "docs/kinora.1 does not have the verb \"$verb\""
done <<<"$verbs"
for command in tools/demo.sh tools/test.sh; do
    grep -q "$command" README.md || fault "README.md does not name $command"
done
exit $failed
