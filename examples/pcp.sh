#!/usr/bin/env bash
# PCP as a shell loop: the plan that `ucl run` walks, one pipe an epoch.
#
# Data:      the built-in digits (1,797 images); any folder of images: IMAGES=photos/ (with class folders, or TARGETS=classes.tsv, it is measured)
# Hardware:  2 CPU cores; about 5 minutes of CPU time for 30 epochs of digits, most of it process starts (`ucl run` in their place is quicker)
# Expect:    kNN leave-one-out about 0.97 (seed 0: 0.9661, below DeepCluster's and the pixels' own 0.99: digits are not what PCP is for); half of
#            the images in 36 clusters, of purity 0.72 before and 0.91 after purification
# May be killed at any moment and started again: it goes on inside the epoch, or after the last committed one.
#
# TEST=photos-test/ is measured too.  INIT holds more words for `ucl init`: INIT="--epochs 60 --backbone resnet18-32 --set pcp.rounds=5".
set -euo pipefail
: "${IMAGES:=digits}" "${OUT:=runs/pcp}" "${SEED:=0}" "${INIT:=}" "${TARGETS:=}" "${TEST:=}" "${NEIGHBORS:=10}"
[ -z "$TARGETS" ] || TARGETS=$(realpath "$TARGETS")
[ -z "$TEST" ] || TEST=$(realpath "$TEST")

# shellcheck disable=SC2086
[ -e "$OUT/ucl.toml" ] || ucl init pcp "$IMAGES" -o "$OUT" --seed "$SEED" $INIT
cd "$OUT"
until ucl status --done; do
    if ucl status --midway; then
        ucl train-epoch </dev/null
    else
        ucl extract | ucl cluster | ucl purify | ucl train-epoch
    fi
done
ucl status

# Whole images now, not random views, in the space in which they were told apart.
ucl extract --model model.h5 --layer projection --views fixed -f -o work/clean.h5 -q </dev/null
if ucl targets ${TARGETS:+--targets "$TARGETS"} -f -o work/truth.h5 -q </dev/null; then # else it says that there are no classes
    ucl evaluate knn work/clean.h5 -k "$NEIGHBORS" ${TARGETS:+--targets "$TARGETS"} </dev/null
    if [ -n "$TEST" ]; then
        ucl extract "$TEST" --model model.h5 --layer projection -f -o work/test.h5 -q </dev/null
        ucl evaluate knn work/clean.h5 --test work/test.h5 -k "$NEIGHBORS" \
            ${TARGETS:+--targets "$TARGETS"} ${TARGETS:+--test-targets "$TARGETS"} </dev/null
    fi
    ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null # purity before and after purification, and of each flag
fi
