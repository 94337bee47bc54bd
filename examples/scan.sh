#!/usr/bin/env bash
# SCAN: a network by SimCLR, then clusters of its neighbours, then the sure images' own labels; each a plan of ucl, as a shell loop.
#
# Data:      the built-in digits (1,797 images); any folder of images: IMAGES=photos/ (with class folders, or TARGETS=classes.tsv, it is measured)
# Weights:   FROM=model.h5 of a run, with the projection in it, leaves SimCLR out; or a file as `ucl import` takes it
#            (INIT="--set scan.features=last" then, as it has no projection)
# Hardware:  2 CPU cores; about 6 minutes of CPU time for 60 + 40 epochs of digits (`ucl run` in place of the loops is quicker)
# Expect:    a table of the clusters against the classes (examples/RESULTS.md)
# May be killed at any moment and started again: it goes on inside the epoch, or after the last committed one.
#
# BEFORE and INIT hold more words for `ucl init` of SimCLR and of SCAN: BEFORE="--epochs 500 --backbone resnet18-32"
# INIT="--backbone resnet18-32".  TEST=photos-test/ is measured too.
set -euo pipefail
: "${IMAGES:=digits}" "${OUT:=runs/scan}" "${SEED:=0}" "${FROM:=}" "${BEFORE:=}" "${INIT:=}" "${TARGETS:=}" "${TEST:=}" "${K:=10}"
[ -z "$TARGETS" ] || TARGETS=$(realpath "$TARGETS")
[ -z "$TEST" ] || TEST=$(realpath "$TEST")

go_on() { # every epoch of the plan in this directory, from wherever it stands; --next is the line that the next epoch is
    local line
    until ucl status --done; do
        line=$(ucl status --next)
        eval "$line" </dev/null
    done
}

mkdir -p "$OUT"
if [ -z "$FROM" ]; then
    # shellcheck disable=SC2086
    [ -e "$OUT/before/ucl.toml" ] || ucl init simclr "$IMAGES" -o "$OUT/before" --seed "$SEED" $BEFORE </dev/null
    (cd "$OUT/before" && go_on)
    FROM=$OUT/before/model.h5
fi
# shellcheck disable=SC2086
[ -e "$OUT/scan/ucl.toml" ] || ucl init scan "$IMAGES" -o "$OUT/scan" --from "$FROM" --seed "$SEED" --set "scan.k=$K" $INIT </dev/null
cd "$OUT/scan"
go_on
ucl status

if ucl targets ${TARGETS:+--targets "$TARGETS"} -f -o work/truth.h5 -q </dev/null; then # else it says that there are no classes
    ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null
    if [ -n "$TEST" ]; then
        ucl extract "$TEST" --model model.h5 --final-relu -f -o work/test.h5 -q </dev/null
        ucl cluster work/test.h5 --method argmax --model model.h5 -f -o work/test-labels.h5 -q </dev/null
        ucl evaluate clusters work/test-labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null
    fi
fi
