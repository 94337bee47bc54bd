#!/usr/bin/env bash
# ODC: linear classifiers on the convolutions of AlexNet (batch norm, no local response normalisation), ImageNet and Places.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; PLACES=folder likewise, or none
# Hardware:  one GPU and fast storage; 440 epochs over 1.28 million photos; each layer's features are up to 50 GB, one layer at a time
# Expect:    the paper's conv1-5: ImageNet 19.6 32.8 40.4 41.4 37.3, Places 24.0 33.2 38.3 38.4 35.5; not run here (README.md)
#
# ROWS: odc.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=alexnet-bn}" "${LAYERS:=conv1 conv2 conv3 conv4 conv5}" "${ROWS:=odc}"
: "${EPOCHS:=440}" "${K:=10000}" "${OUT:=runs/odc-alexnet${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # name seed
    settings+=(--epochs "$EPOCHS" --set odc.lr=0.04 --set "cluster.k=$K")
    walk "$1" "$2" odc
}

rows "$@"
