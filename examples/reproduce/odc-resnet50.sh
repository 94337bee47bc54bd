#!/usr/bin/env bash
# ODC: linear classifiers on the stages of ResNet-50, ImageNet and Places.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; PLACES=folder likewise, or none
# Hardware:  one GPU of 40 GB or more (batches of 512) and fast storage; 440 epochs over 1.28 million photos
# Expect:    the paper's first convolution, layer1-4: ImageNet 14.8 31.6 42.5 55.7 57.6, Places 21.4 35.0 41.3 47.4 49.3; not run here (README.md)
#
# ROWS: odc.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=resnet50}" "${LAYERS:=stem layer1 layer2 layer3 layer4}" "${ROWS:=odc}"
: "${EPOCHS:=440}" "${K:=10000}" "${OUT:=runs/odc-resnet50${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # name seed
    settings+=(--epochs "$EPOCHS" --set "cluster.k=$K")
    walk "$1" "$2" odc
}

rows "$@"
