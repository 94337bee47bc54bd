#!/usr/bin/env bash
# ODC on top of other methods: ResNet-50 with their weights, measured as they are (round 0) and after 120 epochs of ODC (round 1).
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; WEIGHTS=folder with the weights of each row, as
#            rotation.pt (`ucl import` says what such a file may be)
# Hardware:  one GPU of 40 GB or more and fast storage; four runs of 120 epochs over 1.28 million photos
# Expect:    the paper measures by SVM on VOC07, which cannot be done here: colorization 55.6 to 72.3, jigsaw 64.5 to 74.4, rotation 67.4
#            to 74.5, deepcluster 69.1 to 77.0; here a linear classifier on ImageNet; not run (README.md)
#
# ROWS: names of files in WEIGHTS, without .pt.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${WEIGHTS:?the folder with rotation.pt and so on}" "${BACKBONE:=resnet50}" "${LAYERS:=layer3 layer4}"
: "${ROWS:=colorization jigsaw rotation deepcluster}" "${EPOCHS:=120}" "${K:=10000}" "${OUT:=runs/odc-finetune${VARIANT:+-$VARIANT}}"
WEIGHTS=$(realpath "$WEIGHTS")
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # weights seed
    settings+=(--epochs "$EPOCHS" --set "cluster.k=$K" --set "init.weights=$WEIGHTS/$1.pt")
    walk "$1" "$2" odc both
}

rows "$@"
