#!/usr/bin/env bash
# UIC: VGG-16 with strong views; ImageNet.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG
# Hardware:  one GPU of 40 GB or more and fast storage; 500 epochs over 1.28 million photos
# Expect:    the paper's linear classifier 57.7, NMI 46.9; not run here (README.md)
#
# ROWS: strong.  Batch and learning rate are taken to be those of AlexNet.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=vgg16-bn}" "${LAYERS:=conv13}" "${ROWS:=strong}"
: "${EPOCHS:=500}" "${K:=3000}" "${POOL:=max}" "${OUT:=runs/uic-vgg16${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # name seed
    settings+=(--set "uic.epochs=$EPOCHS" --set "uic.k=$K" --set uic.schedule=linear --set uic.final_share=0)
    settings+=(--set train-epoch.batch=256 --set uic.lr=0.1)
    walk "$1" "$2" uic
}

rows "$@"
