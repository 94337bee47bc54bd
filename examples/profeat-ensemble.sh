#!/usr/bin/env bash
# An ensemble of ProFeat: runs of their own seeds, which after every clustering are told what they agree on.
#
# Data:      the built-in digits (1,797 images); any folder of images: IMAGES=photos/ (with class folders, or TARGETS=classes.tsv, it is measured)
# Hardware:  2 CPU cores; about 20 minutes of CPU time for three members of 3 iterations each, of digits
# Expect:    a table of each member's clusters against the classes, and which member has the lowest score without labels
#            (examples/RESULTS.md); after every iteration clusters-EPOCH.json in each member's folder, which nothing reads
# May be killed at any moment and started again: every member goes on inside its epoch, or after its last committed one.
#
#   SCRIPT              all MEMBERS, JOBS at a time, to the end
#   SCRIPT member 3     one of them, as far as it goes without the others: code 0, where it waits and where it is done
#   SCRIPT agree        what all of them agree on, once all wait
#
# Under Slurm an iteration is an array job and a short job behind it; members.sbatch has `srun SCRIPT member "$SLURM_ARRAY_TASK_ID"`, and
# puts itself back into the queue where it ends in 75 (man ucl-run):
#   job=$(sbatch --parsable --array=1-5 --requeue --signal=USR2@120 members.sbatch)
#   job=$(sbatch --parsable --dependency="afterok:$job" --wrap "SCRIPT agree")
# and again, each pair behind the last, as often as there are iterations; then SCRIPT alone, which only measures.
#
# INIT holds more words for `ucl init` of every member: INIT="--backbone resnet18-32 --set profeat.iterations=10".
set -euo pipefail
: "${IMAGES:=digits}" "${OUT:=runs/profeat-ensemble}" "${MEMBERS:=1 2 3}" "${JOBS:=1}" "${INIT:=}" "${TARGETS:=}"
[ -z "$TARGETS" ] || TARGETS=$(realpath "$TARGETS")
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
# shellcheck source=examples/jobs.bash
source "$(dirname "$0")"/jobs.bash
dirs=()
for number in $MEMBERS; do dirs+=("$OUT/m$number"); done

standing() { # directory: its epoch, and what the next one needs
    (
        trap '' USR1 USR2
        ucl status "$1" --json </dev/null | python3 -c 'import json, sys; now = json.load(sys.stdin); print(now["epoch"], now["needs"])'
    )
}

train() { # directory, and the command
    go
    (
        heed
        cd "$1" && "${@:2}" </dev/null
    )
}

member() { # number: the number is the seed
    local dir=$OUT/m$1 agreed code=0
    # shellcheck disable=SC2086
    [ -e "$dir/ucl.toml" ] || ucl init profeat "$IMAGES" -o "$dir" --seed "$1" --set profeat.rule=agree $INIT </dev/null
    agreed=$(standing "$dir") || return
    agreed=$OUT/agreed-${agreed% *}.h5
    if [ -e "$agreed" ]; then # the first epoch of a contrastive step, on the groups of images that all members agree on
        train "$dir" ucl train-epoch "$agreed" || return
    fi
    train "$dir" ucl run || code=$?
    case $code in
    0 | 76) ;; # done, now or before
    66) [[ $(standing "$dir") == *" agreed" ]] || return 66 ;; # waiting for the others; else a file is gone
    *) return "$code" ;;
    esac
}

done_all() {
    local dir
    for dir in "${dirs[@]}"; do
        { [ -e "$dir/ucl.toml" ] && ucl status "$dir" --done </dev/null; } || return 1
    done
}

agree() { # agreed-EPOCH.h5, of members that have all come to that epoch and wait
    local all
    if done_all; then return; fi
    all=$(for dir in "${dirs[@]}"; do standing "$dir"; done | sort -u)
    if [[ $all == *$'\n'* || $all != *" agreed" ]]; then
        echo "$0: error: members are at epochs $(cut -d ' ' -f 1 <<< "$all" | paste -sd ,), wanted all at one where they wait for what they agree on" >&2
        return 65
    fi
    all=${all% *}
    if [ -e "$OUT/agreed-$all.h5" ]; then
        echo "$0: error: agreed-$all.h5 is there, and members still wait" >&2
        return 66
    fi
    measure "$all" || echo "$0: the clusters of epoch $all are not measured" >&2
    go
    ucl purify --rule agree "${dirs[@]/%//labels.h5}" -o "$OUT/agreed-$all.h5" </dev/null
}

measured=
measure() { # epoch: each member's clusters against the classes, if there are any, only to be read
    local dir
    if [ -z "$measured" ]; then
        measured=no # then it says so
        if (cd "${dirs[0]}" && ucl targets ${TARGETS:+--targets "$TARGETS"} -f -o work/truth.h5 -q </dev/null); then measured=yes; fi
    fi
    [ "$measured" = yes ] || return 0
    for dir in "${dirs[@]}"; do
        (cd "$dir" && ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} --json </dev/null > "clusters-$1.json") || return
    done
}

case ${1:-} in
member) member "$2"; exit ;;
agree) agree; exit ;;
esac
export IMAGES OUT INIT MEMBERS
until done_all; do
    # shellcheck disable=SC2086
    each member < <(printf '%s\n' $MEMBERS)
    agree
    go
done

# Of the members one is kept: that of the lowest score, which sees no classes.
best=$(ucl status --lowest score "${dirs[@]}" </dev/null)
all=$(standing "$best")
measure "${all% *}"
if [ "$measured" = yes ]; then
    for dir in "${dirs[@]}"; do
        echo "$dir"
        (cd "$dir" && ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null)
    done
fi
echo "lowest score without labels: $best"
