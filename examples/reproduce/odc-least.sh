#!/usr/bin/env bash
# ODC: the size n_min below which a cluster is repaired, on 90,000 images of 300 classes of ImageNet.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; 300 classes are drawn, or CLASSES=text file of them
# Hardware:  one GPU of 40 GB or more and fast storage; eight runs of 440 epochs over 90,000 photos
# Expect:    the paper has a figure of 1 to 160, in which 160 is worse; not run here (README.md)
#
# ROWS: members.  How many clusters the paper has here is not said: K=280, of 321 images, twice the largest n_min.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=resnet50}" "${LAYERS:=layer3 layer4}" "${ROWS:=1 5 10 20 40 80 120 160}"
: "${EPOCHS:=440}" "${K:=280}" "${PER_CLASS:=300}" "${OUT:=runs/odc-least${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash
some_classes "$PER_CLASS"

row() { # members seed
    settings+=(--epochs "$EPOCHS" --set "cluster.k=$K" --set "odc.least=$1")
    walk "$1" "$2" odc
}

rows "$@"
