# shellcheck shell=bash disable=SC2034  # arrays set here are read in the scripts
# What the pcp-*.sh of this folder share; they source it.  Each names its data and its rows, and says in row() how one is trained.
#
# Of every one of them:
#   SCRIPT             all ROWS and SEEDS, JOBS at a time, then the table on standard output
#   SCRIPT ROW SEED    one, as for a Slurm array; JOBS runs beside each other on one GPU seldom pay
# Any may be stopped or killed and started again by the same line: it goes on inside the epoch, and refuses other settings.
# Under Slurm: sbatch --requeue --signal=USR2@120 and `srun` before the script; exit code 75 asks for a requeue.

: "${EPOCHS:=200}" "${SEEDS:=0}" "${JOBS:=1}" "${NEIGHBORS:=200}" "${PRECISION:=float32}" "${SETTINGS:=}" "${VARIANT:=}"
# EPOCHS: of a round; every turning point is a share of it.  SETTINGS: more words for every row, as "-j 4 --files-from part.txt".
# VARIANT, where the paper and its released code differ and the plan follows one of them (man ucl-methods):
#   paper      the sum over pairs in the loss, small clusters cut too, clean images clustered
#   released   in the first half of a round a cluster of fewer than 2 ends purification, later half of a cluster is kept at most,
#              two views in every round
case $VARIANT in "" | paper | released) ;; *) echo "$0: error: VARIANT: found $VARIANT, wanted paper or released" >&2; exit 64 ;; esac
trap : USR1 USR2 # what runs stops at these, with its work on disk; this shell then passes its exit code on

data=() # words that every row of methods() is given

images() { # data: training and test images of a released data set, or of a folder with the folders train and test
    local at
    at=$(realpath "$1")
    if [ -d "$at/train" ] && [ -d "$at/test" ]; then
        train=("$at/train") test=("$at/test") truth=()
    else
        train=("$at" --split train) test=("$at" --split test) truth=(--targets "$at" --test-targets "$at")
    fi
}

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

begin() { # directory method seed options: make the run directory, or refuse other settings of one that is there
    local dir=$1 name=$2 seed=$3 code=0
    shift 3
    # shellcheck disable=SC2086
    if [ -e "$dir/ucl.toml" ]; then
        ucl run "$name" "${train[@]}" -o "$dir" --dry-run --seed "$seed" --precision "$PRECISION" --set init.backbone="$BACKBONE" \
            "${settings[@]}" "$@" $SETTINGS </dev/null >/dev/null || code=$?
        [ "$code" -eq 0 ] || [ "$code" -eq 76 ] || exit "$code"
    else
        ucl init "$name" "${train[@]}" -o "$dir" --seed "$seed" --precision "$PRECISION" --set init.backbone="$BACKBONE" \
            "${settings[@]}" "$@" $SETTINGS </dev/null
    fi
}

epoch_of() { # directory
    ucl status "$1" --json </dev/null | python -c 'import json, sys; print(json.load(sys.stdin)["epoch"])'
}

walk() { # row seed rounds: by method and settings, measured at the end of every round
    local dir=$OUT/${1//:/-}-$2 epoch code
    begin "$dir" "$method" "$2" --set "$method.epochs=$EPOCHS" --set "$method.rounds=$3"
    while true; do
        epoch=$(epoch_of "$dir")
        if [ "$epoch" -gt 0 ] && [ $((epoch % EPOCHS)) -eq 0 ]; then
            measure "$dir" $((epoch / EPOCHS - 1)) projection
        fi
        [ "$epoch" -lt $((EPOCHS * $3)) ] || return 0
        code=0
        ucl run -o "$dir" --limit $((EPOCHS - epoch % EPOCHS)) </dev/null >&2 || code=$?
        [ "$code" -eq 0 ] || exit "$code"
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
        epoch=$(epoch_of "$dir")
        lr=$(awk "BEGIN { done = $epoch / $EPOCHS + 1e-9; print (done < 0.6 ? 0.03 : done < 0.8 ? 0.003 : 0.0003) }")
        (
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

measure() { # directory round layer: what MEASURE names, unless it is there already
    (
        cd "$1"
        for what in ${MEASURE:-knn}; do
            [ ! -e "round-$2.$what.json" ] || continue
            "$what" "$3" > work/measured
            mv work/measured "round-$2.$what.json"
        done
        rm -f work/train.h5 work/test.h5
    )
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

rows() { # [row seed]: that one, or all ROWS and SEEDS, and the table
    mkdir -p "$OUT"
    if [ $# -gt 0 ]; then
        row "$1" "${2:-0}"
        return
    fi
    OUT=$(realpath "$OUT")
    export OUT
    rm -f "$OUT/stopped"
    # The first that fails ends all, and with its exit code: xargs goes on after any but 255, and has codes of its own.
    # shellcheck disable=SC2016
    for seed in $SEEDS; do for row in $ROWS; do echo "$row $seed"; done; done |
        xargs -P "$JOBS" -L 1 bash -c 'trap : USR1 USR2; bash "$0" "$@" || { echo $? > "$OUT/stopped"; exit 255; }' "$0" ||
        exit "$(cat "$OUT/stopped" || echo 70)"
    ROWS=$ROWS SEEDS=$SEEDS python - "$OUT" <<'PY'
import json, os, pathlib, sys
print("| row | seed | round | kNN top-1 | linear top-1 |\n|---|---|---|---|---|")
for row in os.environ["ROWS"].split():
    for seed in os.environ["SEEDS"].split():
        folder = pathlib.Path(sys.argv[1]) / f"{row.replace(':', '-')}-{seed}"
        for number in sorted({int(p.name.split("-")[1].split(".")[0]) for p in folder.glob("round-*.json")}):
            cells = []
            for what in ("knn", "linear"):
                path = folder / f"round-{number}.{what}.json"
                found = json.loads(path.read_text())["metrics"][f"{what}_top1"] if path.exists() else None
                cells.append(f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})" if found else "")
            print(f"| {row} | {seed} | {number} | {cells[0]} | {cells[1]} |")
PY
}
