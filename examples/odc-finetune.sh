#!/usr/bin/env bash
# ODC on top of another method's network: its weights, a neck and clusters of its own; neighbours before and after, image by image.
#
# Data:      the built-in digits (1,797 images); any folder of images with class folders: IMAGES=photos/
# Weights:   FROM=weights.pt, a file as `ucl import` takes it, or the model.h5 of a run; without one a run of BEFORE=ir is made first
# Hardware:  2 CPU cores; about a minute of CPU time for digits
# Expect:    kNN leave-one-out, seed 0: 0.9699 before, 0.9755 after; the difference 0.0056 [0.0000, 0.0117], one seed
# May be killed at any moment and started again: it goes on inside the epoch, or after the last committed one.
#
# INIT holds more words for `ucl init`, of both runs: INIT="--backbone resnet50".  The plan has 120 epochs, of digits 30.
set -euo pipefail
: "${IMAGES:=digits}" "${OUT:=runs/odc-finetune}" "${FROM:=}" "${BEFORE:=ir}" "${SEED:=0}" "${INIT:=}" "${NEIGHBORS:=10}"

go_on() { # words of ucl run: its plan, from wherever it stands
    local code=0
    ucl run "$@" </dev/null || code=$?
    [ "$code" -eq 0 ] || [ "$code" -eq 76 ] || exit "$code" # 76: it was at its end already
}

mkdir -p "$OUT"
if [ -z "$FROM" ]; then
    # shellcheck disable=SC2086
    go_on "$BEFORE" "$IMAGES" -o "$OUT/before" --seed "$SEED" $INIT
    FROM=$OUT/before/model.h5
fi
measure() { # name: neighbours by the network as it is now, unless it was done before
    [ ! -e "$1.h5" ] || return 0
    ucl extract --model model.h5 -f -o work/clean.h5 -q </dev/null
    ucl evaluate knn work/clean.h5 -k "$NEIGHBORS" -o "$1.h5" </dev/null
}

# shellcheck disable=SC2086
[ -e "$OUT/odc/ucl.toml" ] || ucl init odc "$IMAGES" -o "$OUT/odc" --from "$FROM" --seed "$SEED" $INIT
cd "$OUT/odc"
measure before # the weights as they came
go_on
measure after
ucl evaluate compare before.h5 after.h5 </dev/null
