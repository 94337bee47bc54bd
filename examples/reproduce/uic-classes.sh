#!/usr/bin/env bash
# UIC: the number of classes, AlexNet on ImageNet, without the final stage.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG
# Hardware:  one GPU and fast storage; three runs of 500 epochs over 1.28 million photos
# Expect:    the paper's conv3-5 and NMI: 3000 41.2 41.0 38.1, 38.5; 5000 40.6 40.9 38.2, 40.8; 10000 40.6 40.8 37.9, 42.6; not run here
#
# ROWS: classes.  NMI grows with them, so compare it for one number of classes only.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=alexnet-bn}" "${LAYERS:=conv3 conv4 conv5}" "${ROWS:=3000 5000 10000}"
: "${EPOCHS:=500}" "${POOL:=max}" "${OUT:=runs/uic-classes${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # classes seed
    settings+=(--set "uic.epochs=$EPOCHS" --set "uic.k=$1" --set uic.schedule=linear --set init.sobel=true --set uic.final_share=0)
    walk "$1" "$2" uic
}

rows "$@"
