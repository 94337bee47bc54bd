# shellcheck shell=bash disable=SC2034,SC2154  # arrays set here are read in the scripts, and the reverse
# What the profeat-*.sh of this folder share, beside runs.bash; they source it.  Each names its data, its numbers and what the training
# images of SimCLR are, and then has rows().
#
# Of every one of them: K; epochs of the stages CONTRAST, REFINE, CLUSTER (SCAN's) and SELF; ITERATIONS, and TOGETHER of an ensemble of
# MEMBERS; THRESHOLD (t_s), CONNECTIONS (t_c).  MORE: settings of the rows of ProFeat, as MORE="positives=sum refine_lr=0.0004,0.0004".
# Rows of one seed share SimCLR's network, in OUT/simclr-SEED; the members of an ensemble have seeds of their own.
#
# ROWS: scan (SimCLR and SCAN), self (and its own sure labels), and of ProFeat's table of components
#   a     in turns, with all images, clustering on the network itself      b     a, with confident images alone
#   c     a, with clustering on a copy of the network                      s     both: ProFeat with one model
#   d     an ensemble, whatever the connections within a batch             e     with enough of them: ProFeat with an ensemble
# Round N is what is measured after iteration N, of test images; of an ensemble the member of the lowest score without labels.
#
# VARIANT, where papers and SCAN's released code differ and the plan follows one of them (man ucl-methods):
#   paper      clustering trains the classifier alone; an image is not its own neighbour
#   released   SimCLR's loss of the first views alone

: "${REFINE:=50}" "${MEMBERS:=5}" "${MORE:=}" "${VARIANT:=}" "${MEASURE:=test}"
case $VARIANT in "" | paper | released) ;; *) echo "$0: error: VARIANT: found $VARIANT, wanted paper or released" >&2; exit 64 ;; esac
# shellcheck source=examples/reproduce/runs.bash
source "$(dirname "${BASH_SOURCE[0]}")"/runs.bash
columns=("test:acc_one_to_one:ACC" "test:nmi_arithmetic:NMI" "test:ari:ARI")
data=() # words that every row is given
which=() # of two sets of classes

row() { # name seed
    mkdir -p "$OUT"
    OUT=$(realpath "$OUT")
    case $1 in
    scan) alone "$1" "$2" scan 1 0 ;;
    self) alone "$1" "$2" scan 1 "$SELF_LABEL" ;;
    a) alone "$1" "$2" profeat "$ITERATIONS" "$SELF" threshold=0 apart=false ;;
    b) alone "$1" "$2" profeat "$ITERATIONS" "$SELF" "threshold=$THRESHOLD" apart=false ;;
    c) alone "$1" "$2" profeat "$ITERATIONS" "$SELF" threshold=0 ;;
    s) alone "$1" "$2" profeat "$ITERATIONS" "$SELF" "threshold=$THRESHOLD" ;;
    d) ensemble "$1" "$2" connections=0 ;;
    e) ensemble "$1" "$2" "connections=$CONNECTIONS" ;;
    *) echo "$0: error: found no row $1" >&2; return 64 ;;
    esac
}

configure() { # method iterations self-labels, and more settings of its table: sets settings, first and later
    local word table=$1 words=("k=$K" "scan_epochs=$CLUSTER" "scan_batch=$CLUSTER_BATCH" "self_epochs=$3")
    [ "$table" != profeat ] || words+=(contrast_epochs=0 "refine_epochs=$REFINE" "iterations=$2")
    [ "$VARIANT" != paper ] || words+=(scan_trains=head own=false)
    settings=("${data[@]}")
    # shellcheck disable=SC2086  # MORE: several words
    for word in "${words[@]}" "${@:4}" $([ "$table" != profeat ] || echo $MORE); do settings+=(--set "$table.$word"); done
    first=$((CLUSTER + $3)) later=$((REFINE + CLUSTER + $3)) # epochs of the first iteration, and of every other one
}

before() { # seed: SimCLR's network, once
    local train=("${trained_before[@]}") settings=("${data[@]}" --set "simclr.contrast_epochs=$CONTRAST") code=0
    [ "$VARIANT" != released ] || settings+=(--set simclr.anchors=first)
    (
        heed
        flock 9 || exit 75 # only a signal ends it
        go
        begin "$OUT/simclr-$1" simclr "$1" || exit
        go_on "$OUT/simclr-$1" "$CONTRAST"
    ) 9> "$OUT/.simclr-$1.lock" || code=$?
    [ "$code" -eq 0 ] || exit "$code"
}

alone() { # row seed method iterations self-labels, and more settings
    local dir=$OUT/$1-$2 checkpoint=model.h5 round
    before "$2"
    configure "$3" "$4" "$5" "${@:6}"
    begin "$dir" "$3" "$2" --set "init.weights=$OUT/simclr-$2/model.h5"
    [ "$3" != profeat ] || [[ ${settings[*]} == *apart=false* ]] || checkpoint=classifier.h5
    for ((round = $(standing "$4" "$dir"); round <= $4; round++)); do
        go_on "$dir" $((first + (round - 1) * later))
        due "$dir" "$round" "$4" || continue
        measure "$dir" "$round" "$dir/$checkpoint"
    done
}

standing() { # last directories: the iteration that all of them have come to the end of, at least 1 and at most the last
    local dir epoch least=$1
    for dir in "${@:2}"; do
        epoch=$(epoch_of "$dir")
        if [ "$epoch" -lt "$first" ]; then
            least=1
        elif [ $((1 + (epoch - first) / later)) -lt "$least" ]; then
            least=$((1 + (epoch - first) / later))
        fi
    done
    echo "$least"
}

due() { # run-directory round last: it stands where that iteration ends
    [ "$2" -eq "$3" ] || [ "$(epoch_of "$1")" -eq $((first + ($2 - 1) * later)) ]
}

ensemble() { # row seed, and more settings: members of seeds of their own, which are told what they agree on
    local dir=$OUT/$1-$2 members=() round seed member best
    configure profeat "$TOGETHER" "$SELF" rule=agree "${@:3}"
    mkdir -p "$dir/work"
    for ((seed = $2 * MEMBERS; seed < ($2 + 1) * MEMBERS; seed++)); do
        before "$seed"
        begin "$dir/m$seed" profeat "$seed" --set "init.weights=$OUT/simclr-$seed/model.h5"
        members+=("$dir/m$seed")
    done
    for ((round = $(standing "$TOGETHER" "${members[@]}"); round <= TOGETHER; round++)); do
        for member in "${members[@]}"; do
            [ "$round" -eq 1 ] || tell "$member" "$dir/agreed-$round.h5" $((first + (round - 2) * later))
            go_on "$member" $((first + (round - 1) * later))
        done
        if due "${members[0]}" "$round" "$TOGETHER"; then
            best=$(ucl status --lowest score "${members[@]}" </dev/null) # the one to keep
            measure "$dir" "$round" "$best/classifier.h5"
        fi
        if [ "$round" -lt "$TOGETHER" ] && [ ! -e "$dir/agreed-$((round + 1)).h5" ]; then
            ucl purify --rule agree "${members[@]/%//labels.h5}" -o "$dir/agreed-$((round + 1)).h5" </dev/null >&2
        fi
    done
}

tell() { # member labels epoch: what all agree on, if it stands there
    local code=0
    [ "$(epoch_of "$1")" -eq "$3" ] || return 0
    go
    (
        heed
        cd "$1" && ucl train-epoch "$2" </dev/null >&2
    ) || code=$?
    [ "$code" -eq 0 ] || exit "$code"
}

take() { # test, and a checkpoint: the classes that its classifier gives the test images
    local known=("${truth[@]:0:2}")
    ucl extract "${test[@]}" --model "$2" --final-relu -f -o work/test.h5 -q </dev/null
    ucl cluster work/test.h5 --method argmax --model "$2" -f -o work/found.h5 -q </dev/null
    ucl evaluate clusters work/found.h5 "${known[@]}" "${which[@]}" --json </dev/null
}
