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
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd) CIFAR=$(cd "$CIFAR" && pwd)
list=$OUT/list.txt
for class in "$CIFAR"/train/*/; do
    find "$class" -name '*.jpg' | sort | head -n "$PER_CLASS" || true
done | sed "s|^$CIFAR/train/||" > "$list"

row_settings() { # row clusters: what is set by hand
    local plain="--set pcp.keep_nearest=1 --set pcp.votes=false" views="--set pcp.warm_up=none" k="--set pcp.final_k=$2"
    [ "${1%+}" = "$1" ] || views=                       # with a plus: two views in the batch, as in pcp
    case ${1%+} in
    ir | is) ;;                                         # each image its own class; two views alone
    dc) echo "$k $plain $views --set cluster.k=$2" ;;   # as many clusters from the first epoch to the last
    pc) echo "$k $plain $views" ;;                      # ever fewer clusters
    cpr) echo "$k --set pcp.votes=false $views" ;;      # the half near the mean
    cps) echo "$k $views" ;;                            # and votes
    pcp) echo "$k" ;;                                   # and two views in the batch
    *) echo "pcp-small.sh: error: row $1: found no such row" >&2; return 64 ;;
    esac
}

one() { # row seed
    local row=${1%%:*} k=$((PER_CLASS / 5)) dir=$OUT/${1/:/-k}-$2 done=0 method=pcp settings
    [ "$row" = "$1" ] || k=${1#*:}
    case $row in ir | is) method=$row ;; esac
    settings=$(row_settings "$row" "$k")
    # shellcheck disable=SC2086  # several words each
    [ -e "$dir/ucl.toml" ] ||
        ucl init "$method" "$CIFAR/train" --files-from "$list" -o "$dir" --seed "$2" -j 1 --epochs "$EPOCHS" $settings $SETTINGS -q </dev/null
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
export -f one row_settings
export OUT CIFAR EPOCHS SETTINGS PER_CLASS EVERY list
for seed in $SEEDS; do for row in $ROWS; do echo "$row $seed"; done; done |
    xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$0" "$1"'
