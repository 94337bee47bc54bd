# shellcheck shell=bash disable=SC2034,SC2154  # arrays set here are read in the scripts, and the reverse
# What the odc-*.sh and uic-*.sh of this folder share, beside runs.bash; they source it.  Each names its network and its rows, and says
# in row() how one is trained.  What is measured is a linear classifier on each of LAYERS, and of uic the NMI of the labels with the classes.
#
# Of every one of them: EPOCHS, of uic without the final stage; LAYERS; PACK=256 keeps squares of that side in place of decoding every
# photo anew for every view; PLACES=folder with train/<class>/*.jpg and val/<class>/*.jpg measures there too.
# VARIANT, where the paper and its released code differ and the plan follows one of them (man ucl-methods):
#   paper      odc: the nearest centroid by distance, centroids of changed clusters; uic: a linear learning rate
#   released   odc: small clusters repaired in one pass, 0.4 of the learning rate at the end; uic: a cosine, and no final stage

: "${PACK:=none}" "${POOL:=grid}" "${PLACES:=}" "${VARIANT:=}"
case $VARIANT in "" | paper | released) ;; *) echo "$0: error: VARIANT: found $VARIANT, wanted paper or released" >&2; exit 64 ;; esac
# shellcheck source=examples/reproduce/runs.bash
source "$(dirname "${BASH_SOURCE[0]}")"/runs.bash
IMAGENET=$(realpath "${IMAGENET:?the folder with train and val}")
[ -z "$PLACES" ] || PLACES=$(realpath "$PLACES")
train=("$IMAGENET/train") test=("$IMAGENET/val") truth=()
fitted=() # images that the classifiers are trained on, if not the run's own
settings=(--set "init.pack=$PACK" --set init.on_error=skip)

columns=() measured=()
for layer in $LAYERS; do
    measured+=("$layer") columns+=("$layer:linear_top1:$layer")
done
if [ -n "$PLACES" ]; then
    for layer in $LAYERS; do
        measured+=("places-$layer") columns+=("places-$layer:linear_top1:Places $layer")
    done
fi
case $0 in *uic-*) measured+=(nmi) columns+=("nmi:nmi_geometric:NMI") ;; esac
: "${MEASURE:=${measured[*]}}"

vary() { # method: the settings of VARIANT
    case $VARIANT:$1 in
    paper:odc) settings+=(--set train-epoch.similarity=l2 --set train-epoch.refresh=changed) ;;
    paper:uic) settings+=(--set uic.schedule=linear) ;;
    released:odc) settings+=(--set train-epoch.repair=once --set odc.lr_factor=0.4) ;;
    released:uic) settings+=(--set uic.schedule=cosine --set uic.final_share=0) ;;
    esac
}

walk() { # row seed method [both]: its whole plan, by settings, measured at its end; both: and at its beginning, which then is round 0
    local dir=$OUT/$1-$2 round=0
    vary "$3"
    begin "$dir" "$3" "$2"
    if [ "${4:-}" = both ]; then
        measure "$dir" 0
        round=1
    fi
    whole "$dir"
    measure "$dir" "$round"
}

whole() { # directory: run its plan to the end
    local code=0
    ucl status "$1" --done </dev/null >/dev/null || code=$?
    [ "$code" -ne 0 ] || return 0
    ucl run -o "$1" </dev/null >&2
}

take() { # layer, places-layer or nmi
    case $1 in
    nmi) ucl evaluate clusters labels.h5 --json </dev/null ;;
    places-*) probe "${1#places-}" "$PLACES/train" "$PLACES/val" ;;
    *) probe "$1" ;;
    esac
}

probe() { # layer [train test]: a linear classifier on its map in parts, at most 9,600 numbers
    local own=("${fitted[@]}") other=("${test[@]}") side how
    side=$(parts "$1")
    how=(--layer "$1" --map "$POOL-$side")
    [ $# -eq 1 ] || own=("$2") other=("$3")
    ucl extract "${own[@]}" --model model.h5 "${how[@]}" -f -o work/train.h5 -q </dev/null
    ucl extract "${other[@]}" --model model.h5 "${how[@]}" -f -o work/test.h5 -q </dev/null
    ucl evaluate linear work/train.h5 --test work/test.h5 --solver sgd "${truth[@]}" --json </dev/null
}

parts() { # layer: parts a side, of views of 224 px
    case $BACKBONE:$1 in
    alexnet*:conv1) echo 10 ;;
    alexnet*:conv2 | alexnet*:conv5) echo 6 ;;
    alexnet*:conv*) echo 5 ;;
    resnet50:stem) echo 12 ;;
    resnet50:layer1) echo 6 ;;
    resnet50:layer3) echo 3 ;;
    resnet50:layer4) echo 2 ;;
    *) echo 4 ;;
    esac
}

some_classes() { # images of each: 300 classes of ImageNet, those of CLASSES or drawn, and as many images of each for all rows
    mkdir -p "$OUT"
    OUT=$(realpath "$OUT")
    (
        flock 9
        [ ! -e "$OUT/balanced.txt" ] || exit 0
        if [ -n "${CLASSES:-}" ]; then
            cp "$CLASSES" "$OUT/classes.txt"
        else
            draw_classes "$IMAGENET/train" > "$OUT/classes.txt"
        fi
        (cd "$IMAGENET/train" && xargs -a "$OUT/classes.txt" -I{} find {} -type f | LC_ALL=C sort) > "$OUT/all.txt"
        ucl select "$IMAGENET/train" --paths "$OUT/all.txt" --per-class "$1" -f -o "$OUT/balanced.txt" </dev/null
    ) 9> "$OUT/.lock"
    train=("$IMAGENET/train" --files-from "$OUT/balanced.txt") test=("$IMAGENET/val" --classes "$OUT/classes.txt")
    fitted=("${train[@]}")
}

draw_classes() { # folder: the names of 300 of its folders, always the same ones
    python - "$1" <<'PY'
import pathlib, random, sys
names = sorted(p.name for p in pathlib.Path(sys.argv[1]).iterdir() if p.is_dir())
print(*sorted(random.Random(0).sample(names, min(300, len(names)))), sep="\n")
PY
}
