#!/usr/bin/env bash
# ODC on long tails: 300 classes of ImageNet, the largest with 1 to 64 times the images of the smallest, as many images in all.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; 300 classes are drawn, or CLASSES=text file of them
# Hardware:  one GPU of 40 GB or more and fast storage; seven runs of 440 epochs over 80,000 photos
# Expect:    the paper: no significant drop from 1 to 64 on 100,000 images; not run here (README.md)
#
# ROWS: the ratio.  Classes become smaller exponentially, which the paper does not say; 80,000 images is what such a profile of 64 leaves
# of classes of up to 1,300.  The classifiers are trained on PER_CLASS images of every class, the same for all rows.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=resnet50}" "${LAYERS:=layer3 layer4}" "${ROWS:=1 2 4 8 16 32 64}"
: "${EPOCHS:=440}" "${K:=280}" "${PER_CLASS:=300}" "${IMAGES:=80000}" "${OUT:=runs/odc-tail${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash
some_classes "$PER_CLASS"

row() { # ratio seed
    local tail=$OUT/tail-$1.txt
    [ -e "$tail" ] || ucl select "$IMAGENET/train" --paths "$OUT/all.txt" --long-tail "$1" --class-order size --sample "$IMAGES" -o "$tail" </dev/null
    train=("$IMAGENET/train" --files-from "$tail")
    settings+=(--epochs "$EPOCHS" --set "cluster.k=$K")
    walk "$1" "$2" odc
}

rows "$@"
