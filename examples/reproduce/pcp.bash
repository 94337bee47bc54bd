# shellcheck shell=bash disable=SC2034  # arrays set here are read in the scripts
# What the pcp-*.sh of this folder share, beside runs.bash; they source it.  Each names its data and its rows, and says in row() how
# one is trained.

: "${EPOCHS:=200}" "${NEIGHBORS:=200}" "${VARIANT:=}"
# EPOCHS: of a round; every turning point is a share of it.
# VARIANT, where the paper and its released code differ and the plan follows one of them (man ucl-methods):
#   paper      the sum over pairs in the loss, small clusters cut too, clean images clustered
#   released   in the first half of a round a cluster of fewer than 2 ends purification, later half of a cluster is kept at most,
#              two views in every round
case $VARIANT in "" | paper | released) ;; *) echo "$0: error: VARIANT: found $VARIANT, wanted paper or released" >&2; exit 64 ;; esac
# shellcheck source=examples/reproduce/runs.bash
source "$(dirname "${BASH_SOURCE[0]}")"/runs.bash
: "${MEASURE:=knn}"
columns=("knn:knn_top1:kNN top-1" "linear:linear_top1:linear top-1")

data=() # words that every row of methods() is given

configure() { # kind clusters: sets method and settings
    settings=()
    case ${1%+} in # a plus: with the two views of pcp
    ir | is | and) method=$1; return ;;
    dc | pc | cpr | cps | pcp) method=pcp settings=(--set "pcp.final_k=$2") ;;
    *) echo "$0: error: found no row $1" >&2; return 64 ;;
    esac
    case ${1%+} in
    dc) settings+=(--set "cluster.k=$2" --set pcp.keep_nearest=1 --set pcp.votes=false) ;; # as many clusters from first to last
    pc) settings+=(--set pcp.keep_nearest=1 --set pcp.votes=false) ;;                      # ever fewer
    cpr) settings+=(--set pcp.votes=false) ;;                                              # the half near the mean
    esac # cps: and votes
    case $1 in pcp | *+) ;; *) settings+=(--set pcp.warm_up=none) ;; esac # pcp: and two views in the batch
    case $VARIANT:${1%+} in
    paper:*) settings+=(--set train-epoch.cluster_loss=pairs --set pcp.views=fixed) ;;&
    paper:cp* | paper:pcp) settings+=(--set pcp.whole_up_to=0) ;;
    released:cp* | released:pcp) settings+=(--set pcp.early_return=true --set pcp.keep_cap=0.5) ;;&
    released:pcp) settings+=(--set pcp.warm_up=all) ;;
    esac
}

walk() { # row seed rounds: by method and settings, measured at the end of every round
    local dir=$OUT/${1//:/-}-$2 epoch
    begin "$dir" "$method" "$2" --set "$method.epochs=$EPOCHS" --set "$method.rounds=$3"
    while true; do
        epoch=$(epoch_of "$dir")
        if [ "$epoch" -gt 0 ] && [ $((epoch % EPOCHS)) -eq 0 ]; then
            measure "$dir" $((epoch / EPOCHS - 1)) projection
        fi
        [ "$epoch" -lt $((EPOCHS * $3)) ] || return 0
        go_on "$dir" $((epoch - epoch % EPOCHS + EPOCHS))
    done
}

untrained() { # row seed
    begin "$OUT/$1-$2" ir "$2"
    measure "$OUT/$1-$2" 0 projection
}

supervised() { # row seed: the true classes as labels, one classifier throughout; views, optimizer and learning rate as in the other rows
    local dir=$OUT/$1-$2 epoch lr
    begin "$dir" deepcluster "$2" --epochs "$EPOCHS" --set train-epoch.head=kept --set train-epoch.head_momentum=0.9 \
        --set train-epoch.sampler=shuffle --set train-epoch.batch=128 --set train-epoch.weight_decay=5e-4 --set train-epoch.crop_scale=0.2,1 \
        --set train-epoch.hue=0.4 --set train-epoch.jitter_p=1
    until ucl status "$dir" --done </dev/null; do
        go
        epoch=$(epoch_of "$dir")
        lr=$(awk "BEGIN { done = $epoch / $EPOCHS + 1e-9; print (done < 0.6 ? 0.03 : done < 0.8 ? 0.003 : 0.0003) }")
        (
            heed
            cd "$dir"
            ucl targets </dev/null | ucl train-epoch --lr "$lr"
        )
    done
    measure "$dir" 0 "" # no projection was trained: the features themselves
}

methods() { # row seed: kind, or kind:rounds; a table of several methods
    local kind=${1%%:*} rounds=1
    [ "$kind" != and ] || rounds=2 # its one-off form
    [ "$kind" = "$1" ] || rounds=${1#*:}
    settings=("${data[@]}")
    case $kind in
    random) untrained "$1" "$2" ;;
    supervised) supervised "$1" "$2" ;;
    *)
        configure "$kind" "$FINAL_K"
        settings+=("${data[@]}")
        walk "$1" "$2" "$rounds"
        ;;
    esac
}

knn() { # layer: weighted neighbours on clean images
    ucl extract --model model.h5 --views fixed --final-relu --layer "$1" -f -o work/train.h5 -q </dev/null
    ucl extract "${test[@]}" --model model.h5 --views fixed --final-relu --layer "$1" -f -o work/test.h5 -q </dev/null
    ucl evaluate knn work/train.h5 --test work/test.h5 -k "$NEIGHBORS" --tau 0.1 "${truth[@]}" --json </dev/null
}

linear() { # a linear classifier on the fifth convolution, 6 x 6 parts
    ucl extract --model model.h5 --views fixed --layer conv5 --map grid-6 -f -o work/train.h5 -q </dev/null
    ucl extract "${test[@]}" --model model.h5 --views fixed --layer conv5 --map grid-6 -f -o work/test.h5 -q </dev/null
    ucl evaluate linear work/train.h5 --test work/test.h5 --solver sgd "${truth[@]}" --json </dev/null
}
