#!/usr/bin/env bash
# PCP's components and its number of clusters on CIFAR-10, the first 500 training images of each class, one round of 60 epochs:
# the experiment of examples/RESULTS.md, section 8 (PCP, tables I and III, in small).
#
# Data:      CIFAR=folder with train/<class>/*.jpg and test/<class>/*.jpg (50,000 + 10,000 images of 32 px)
# Hardware:  1 CPU core a run, JOBS=2 runs at a time; 7 minutes a run, 15 for pcp
# Expect:    see examples/RESULTS.md
#
# ROWS are names of configurations, with an optional final number of clusters behind a colon, as dc:10, and a plus where two views
# in the batch are to be added, as dc+ (cps+ is pcp).
set -euo pipefail
: "${CIFAR:?the folder that holds train and test}" "${OUT:=runs/pcp-small}" "${EPOCHS:=60}" "${SEEDS:=0 1 2}" "${JOBS:=2}"
: "${ROWS:=ir dc pc cpr cps pcp}" "${PER_CLASS:=500}" "${SETTINGS:=}" "${EVERY:=5}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/reproduce/pcp.bash # configure: what the rows are
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd) CIFAR=$(cd "$CIFAR" && pwd)
list=$OUT/list.txt
for class in "$CIFAR"/train/*/; do
    find "$class" -name '*.jpg' | sort | head -n "$PER_CLASS" || true
done | sed "s|^$CIFAR/train/||" > "$list"

one() { # row seed
    local row=${1%%:*} k=$((PER_CLASS / 5)) dir=$OUT/${1/:/-k}-$2 done=0 method settings
    [ "$row" = "$1" ] || k=${1#*:}
    configure "$row" "$k"
    # shellcheck disable=SC2086  # SETTINGS: several words
    [ -e "$dir/ucl.toml" ] ||
        ucl init "$method" "$CIFAR/train" --files-from "$list" -o "$dir" --seed "$2" -j 1 --epochs "$EPOCHS" "${settings[@]}" $SETTINGS -q </dev/null
    cd "$dir"
    while [ "$done" -eq 0 ]; do
        ucl run -q --limit "$EVERY" </dev/null
        ucl status --done && done=1
        [ "$method" != pcp ] || ucl evaluate clusters --json </dev/null >> clusters.jsonl || [ $? -eq 65 ]  # at first no image has a label
    done
    ucl extract --model model.h5 --layer projection -o train.h5 -f -q
    ucl extract "$CIFAR/test" --model model.h5 --layer projection -o test.h5 -f -q
    ucl evaluate knn train.h5 --test test.h5 -k $((PER_CLASS / 25 + (PER_CLASS < 25))) -o knn.h5 -f --json > knn.json
}
export -f one configure
export OUT CIFAR EPOCHS SETTINGS PER_CLASS EVERY VARIANT list
for seed in $SEEDS; do for row in $ROWS; do echo "$row $seed"; done; done |
    xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$0" "$1"'
