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
trap : USR1 USR2 # what runs stops at these, with its work on disk; this shell then passes its exit code on
dirs=()
for number in $MEMBERS; do dirs+=("$OUT/m$number"); done

epoch_of() { # directory
    ucl status "$1" --json </dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["epoch"])'
}

member() { # number: the number is the seed
    local dir=$OUT/m$1 agreed code=0
    # shellcheck disable=SC2086
    [ -e "$dir/ucl.toml" ] || ucl init profeat "$IMAGES" -o "$dir" --seed "$1" --set profeat.rule=agree $INIT </dev/null
    agreed=$OUT/agreed-$(epoch_of "$dir").h5
    if [ -e "$agreed" ]; then # the first epoch of a contrastive step, on the groups of images that all members agree on
        (cd "$dir" && ucl train-epoch "$agreed" </dev/null) || return
    fi
    ucl run -o "$dir" </dev/null || code=$?
    case $code in 0 | 66 | 76) ;; *) return "$code" ;; esac # done; waiting for the others; it was done already
}

done_all() {
    local dir
    for dir in "${dirs[@]}"; do
        { [ -e "$dir/ucl.toml" ] && ucl status "$dir" --done </dev/null; } || return 1
    done
}

agree() { # agreed-EPOCH.h5, of members that have all come to that epoch
    local epochs
    if done_all; then return; fi
    epochs=$(for dir in "${dirs[@]}"; do epoch_of "$dir"; done | sort -nu)
    if [[ $epochs == *$'\n'* ]]; then
        echo "$0: error: members are at epochs ${epochs//$'\n'/, }, wanted all at one" >&2
        return 65
    fi
    if [ -e "$OUT/agreed-$epochs.h5" ]; then
        echo "$0: error: agreed-$epochs.h5 is there, and members still wait" >&2
        return 66
    fi
    ucl purify --rule agree "${dirs[@]/%//labels.h5}" -o "$OUT/agreed-$epochs.h5" </dev/null
    measure "$epochs"
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
        (cd "$dir" && ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} --json </dev/null > "clusters-$1.json")
    done
}

case ${1:-} in
member) member "$2"; exit ;;
agree) agree; exit ;;
esac
export IMAGES OUT INIT MEMBERS
rm -f "$OUT/stopped"
until done_all; do
    # The first that fails ends all, and with its exit code: xargs goes on after any but 255, and has codes of its own.
    # shellcheck disable=SC2016
    printf '%s\n' $MEMBERS | xargs -P "$JOBS" -n 1 bash -c 'trap : USR1 USR2; bash "$0" member "$1" || { echo $? > "$OUT/stopped"; exit 255; }' "$0" ||
        exit "$(cat "$OUT/stopped" || echo 70)"
    agree
done

# Of the members one is kept: that of the lowest score, which sees no classes.
best=$(ucl status --lowest score "${dirs[@]}" </dev/null)
measure "$(epoch_of "$best")"
if [ "$measured" = yes ]; then
    for dir in "${dirs[@]}"; do
        echo "$dir"
        (cd "$dir" && ucl evaluate clusters labels.h5 ${TARGETS:+--targets "$TARGETS"} </dev/null)
    done
fi
echo "lowest score without labels: $best"
