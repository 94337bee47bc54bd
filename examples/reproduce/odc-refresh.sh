#!/usr/bin/env bash
# ODC: how many steps lie between two refreshes of the centroids, on 90,000 images of 300 classes of ImageNet.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; 300 classes are drawn, or CLASSES=text file of them
# Hardware:  one GPU of 40 GB or more and fast storage; seven runs of 440 epochs over 90,000 photos
# Expect:    the paper has a figure, flat over a reasonable range around 10; not run here (README.md)
#
# ROWS: steps.  How many clusters the paper has here is not said: K=280, of 321 images.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=resnet50}" "${LAYERS:=layer3 layer4}" "${ROWS:=1 5 10 20 50 100 200}"
: "${EPOCHS:=440}" "${K:=280}" "${PER_CLASS:=300}" "${OUT:=runs/odc-refresh${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash
some_classes "$PER_CLASS"

row() { # steps seed
    settings+=(--epochs "$EPOCHS" --set "cluster.k=$K" --set "train-epoch.refresh_every=$1")
    walk "$1" "$2" odc
}

rows "$@"
