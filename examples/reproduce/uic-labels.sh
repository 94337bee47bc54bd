#!/usr/bin/env bash
# UIC: labels from the training pass, which sees augmented views, or from a pass of their own over the fixed views; AlexNet on ImageNet.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG
# Hardware:  one GPU and fast storage; two runs of 530 epochs over 1.28 million photos, of which `fixed` looks at each image twice
# Expect:    the paper's conv3-5: training 41.6 41.5 39.0; fixed 2.1, 1.6 and 1.1 lower; not run here (README.md)
#
# ROWS: training, fixed.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=alexnet-bn}" "${LAYERS:=conv3 conv4 conv5}" "${ROWS:=training fixed}"
: "${EPOCHS:=500}" "${K:=3000}" "${POOL:=max}" "${OUT:=runs/uic-labels${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # where from seed
    settings+=(--set "uic.epochs=$EPOCHS" --set "uic.k=$K" --set uic.schedule=linear --set init.sobel=true --set "uic.relabel=$1")
    walk "$1" "$2" uic
}

rows "$@"
