#!/usr/bin/env bash
# Labels that move with the network, CIFAR-10 in small: ODC and UIC beside DeepCluster, the experiment of examples/RESULTS.md, section 9.
#
# Data:      CIFAR=folder with train/<class>/*.jpg and test/<class>/*.jpg (50,000 + 10,000 images of 32 px)
# Hardware:  1 CPU core a run, JOBS=2 runs at a time; 5 to 8 minutes a run of 10,000 images and 30 epochs
# Expect:    see examples/RESULTS.md
#
# ROWS are names of configurations: deepcluster, persistent, odc, uic; behind a colon settings, joined by commas, as
# uic:uic.k=300,uic.final_share=0; a tail as odc@8 trains on a long-tailed list, the largest class 8 times the smallest;
# odc<ROW, also with a colon behind it, goes on from the network of that row's run of the same seed.
set -euo pipefail
: "${CIFAR:?the folder that holds train and test}" "${OUT:=runs/moving-small}" "${EPOCHS:=30}" "${SEEDS:=0 1 2}" "${JOBS:=2}"
: "${ROWS:=deepcluster persistent odc uic}" "${PER_CLASS:=1000}" "${K:=$((PER_CLASS / 5))}" "${TAIL_IMAGES:=2500}" "${EVERY:=5}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd) CIFAR=$(cd "$CIFAR" && pwd)
for class in "$CIFAR"/train/*/; do
    find "$class" -name '*.jpg' | sort | head -n "$PER_CLASS" || true
done | sed "s|^$CIFAR/train/||" > "$OUT/list.txt"

listed() { # ratio: the list of so long a tail, the same number of images whatever the ratio
    local file=$OUT/tail-$1.txt first
    first=$(awk "BEGIN { for (i = 0; i < 10; i++) s += $1 ^ (-i / 9); print int($TAIL_IMAGES / s + 0.5) }")
    [ -e "$file" ] || ucl select "$CIFAR/train" --paths "$OUT/list.txt" --long-tail "$1" --per-class "$first" -o "$file" -q </dev/null
    echo "$file"
}

one() { # row seed
    local row=$1 dir=$OUT/$1-$2 method words=() list=$OUT/list.txt code=0 from
    dir=${dir//[:=,<]/_}
    [ ! -e "$dir/knn.json" ] || return 0
    case $row in *"<"*) from=$OUT/${row#*<}-$2; from=${from//[:=,]/_}; row=${row%%<*}; words+=(--from "$from/model.h5") ;; esac
    case $row in *:*) for word in $(echo "${row#*:}" | tr ',' ' '); do words+=(--set "$word"); done; row=${row%%:*} ;; esac
    case $row in *@*) list=$(listed "${row#*@}"); row=${row%@*} ;; esac
    method=$row
    case $method in uic) [[ "${words[*]}" == *uic.k=* ]] || words+=(--set "uic.k=$K") ;; *) words+=(--set "cluster.k=$K") ;; esac
    ucl run "$method" "$CIFAR/train" --files-from "$list" -o "$dir" --seed "$2" -j 1 --epochs "$EPOCHS" --keep all "${words[@]}" -q </dev/null || code=$?
    [ "$code" -eq 0 ] || [ "$code" -eq 76 ] || return "$code"
    cd "$dir"
    : > truth.jsonl
    for labels in epochs/*/labels.h5; do [ ! -e "$labels" ] || ucl evaluate clusters "$labels" --json </dev/null >> truth.jsonl; done
    for epoch in $(seq 0 "$EVERY" "$EPOCHS"); do
        model=epochs/$(printf %04d "$epoch")/model.h5
        ucl extract "$CIFAR/train" --files-from "$OUT/list.txt" --model "$model" -o train.h5 -f -q </dev/null
        ucl extract "$CIFAR/test" --model "$model" -o test.h5 -f -q </dev/null
        ucl evaluate knn train.h5 --test test.h5 -o "knn-$epoch.h5" -f --json </dev/null > "knn-$epoch.json"
    done
    mv "knn-$EPOCHS.json" knn.json
    mv "knn-$EPOCHS.h5" knn.h5
    rm -f train.h5 test.h5
}
export -f one listed
export OUT CIFAR EPOCHS PER_CLASS K TAIL_IMAGES EVERY
for seed in $SEEDS; do for row in $ROWS; do printf '%s\n' "$row $seed"; done; done |
    xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$0" "$1"'
