#!/usr/bin/env bash
# DeepCluster as a shell loop: the plan that `ucl run` walks, one pipe an epoch.
#
# Data:      the built-in digits (1,797 images); any folder of images: IMAGES=photos/
# Hardware:  2 CPU cores; about 4 minutes for 30 epochs of digits (`ucl run`, without the process starts: half a minute)
# Expect:    kNN leave-one-out about 0.99, ten clusters about 0.95 one-to-one (see examples/RESULTS.md)
# May be killed at any moment and started again: it goes on from the last committed epoch.
set -euo pipefail
: "${IMAGES:=digits}" "${METHOD:=deepcluster}" "${OUT:=runs/$METHOD}" "${SEED:=0}" "${INIT:=}"

# shellcheck disable=SC2086  # INIT holds several words, as in INIT="--epochs 3 --keep all"
[ -e "$OUT/ucl.toml" ] || ucl init "$METHOD" "$IMAGES" -o "$OUT" --seed "$SEED" $INIT
cd "$OUT"
until ucl status --done; do
    ucl extract | ucl cluster | ucl train-epoch
done
ucl status
ucl evaluate knn </dev/null
