#!/usr/bin/env bash
# ProFeat as a shell loop: the plan that `ucl run` walks, stage by stage; an epoch is one line.
#
# Data:      the built-in digits (1,797 images); any folder of images: IMAGES=photos/ (with class folders, or TARGETS=classes.tsv, it is measured)
# Hardware:  2 CPU cores; about 12 minutes of CPU time for 3 iterations of digits, much of it process starts (`ucl run` in their place is quicker)
# Expect:    a table of the clusters against the classes after each iteration; nothing of it chooses anything (examples/RESULTS.md)
# May be killed at any moment and started again: it goes on inside the epoch, or after the last committed one.
#
# The paper's numbers for CIFAR-10: CONTRAST=500 SCAN=50 SELF=200 REFINE=50 ITERATIONS=10; for photos of your own K is up to you.
# TEST=photos-test/ is measured too.  INIT holds more words for `ucl init`: INIT="--backbone resnet18-32 --set profeat.threshold=0.99".
set -euo pipefail
: "${IMAGES:=digits}" "${OUT:=runs/profeat}" "${SEED:=0}" "${INIT:=}" "${TARGETS:=}" "${TEST:=}" "${K:=10}"
: "${CONTRAST:=60}" "${SCAN:=30}" "${SELF:=10}" "${REFINE:=15}" "${ITERATIONS:=3}" # epochs of the stages
[ -z "$TARGETS" ] || TARGETS=$(realpath "$TARGETS")
[ -z "$TEST" ] || TEST=$(realpath "$TEST")

later=
[ "$ITERATIONS" -eq 1 ] || later="--set profeat.refine_epochs=$REFINE" # else nothing would read it
# shellcheck disable=SC2086
[ -e "$OUT/ucl.toml" ] || ucl init profeat "$IMAGES" -o "$OUT" --seed "$SEED" --set "profeat.k=$K" --set "profeat.contrast_epochs=$CONTRAST" \
    --set "profeat.scan_epochs=$SCAN" --set "profeat.self_epochs=$SELF" $later \
    --set "profeat.iterations=$ITERATIONS" $INIT </dev/null
cd "$OUT"
measured=no # where there are no classes, it says so
if ucl targets ${TARGETS:+--targets "$TARGETS"} -f -o work/truth.h5 -q </dev/null; then measured=yes; fi

train() { ucl train-epoch </dev/null; }
sure() { ucl purify </dev/null | ucl train-epoch; }                # the labels of which the last clustering is sure
mine() { ucl extract </dev/null | ucl neighbors | ucl train-epoch; } # the nearest images of each, once for all epochs of the stage

standing() { # the newest epoch: each has a folder, and so has the beginning
    local all=(epochs/[0-9]*)
    echo $((${#all[@]} - 1))
}

end=0 # of the stages so far
stage() { # name, epochs, and what the first of them is; all others are training alone
    local begin=$end
    end=$((end + $2))
    while [ "$(standing)" -lt "$end" ]; do
        if [ "$(standing)" -eq "$begin" ] && ! ucl status --midway; then
            echo "iteration $iteration: $1, $2 epochs"
            "$3"
        else
            train
        fi
    done
}

for ((iteration = 1; iteration <= ITERATIONS; iteration++)); do
    if [ "$iteration" -eq 1 ]; then
        stage contrast "$CONTRAST" train # model.h5: the network and its projection
    else
        stage refine "$REFINE" sure
    fi
    stage scan "$SCAN" mine # classifier.h5: a copy of the network, with a classifier
    stage selflabel "$SELF" train
    if [ "$measured" = yes ] && [ "$(standing)" -eq "$end" ]; then
        echo "iteration $iteration: clusters against the classes"
        ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} --json </dev/null > "iteration-$iteration.json"
        ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null
    fi
done
ucl status
ucl status --done

# Images that were never seen: the classifier's clusters of them.
if [ -n "$TEST" ]; then
    ucl extract "$TEST" --model classifier.h5 --final-relu -f -o work/test.h5 -q </dev/null
    ucl cluster work/test.h5 --method argmax --model classifier.h5 --probs -f -o test-labels.h5 -q </dev/null
    if [ "$measured" = yes ]; then
        ucl evaluate clusters test-labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null
    fi
fi
