#!/usr/bin/env bash
# UIC: linear classifiers on the convolutions of AlexNet, ImageNet and Places; with the final stage, without it, and with strong views.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG; PLACES=folder likewise, or none
# Hardware:  one GPU and fast storage; three runs of 500 epochs and more over 1.28 million photos; features up to 50 GB, one layer at a time
# Expect:    the paper's ImageNet, conv1-5: final 12.8 34.3 41.6 41.5 39.0; conv3-5: moving 41.2 41.0 38.1, NMI 38.5; strong 43.5 45.6 44.3,
#            NMI 40.0; not run here (README.md)
#
# ROWS: moving (labels that move, to the end), final (and 30 epochs on fixed ones), strong (moving, with colours and strong views).
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=alexnet-bn}" "${LAYERS:=conv1 conv2 conv3 conv4 conv5}" "${ROWS:=final moving strong}"
: "${EPOCHS:=500}" "${K:=3000}" "${POOL:=max}" "${OUT:=runs/uic-alexnet${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # name seed
    settings+=(--set "uic.epochs=$EPOCHS" --set "uic.k=$K" --set uic.schedule=linear)
    case $1 in
    final) settings+=(--set init.sobel=true) ;;
    moving) settings+=(--set init.sobel=true --set uic.final_share=0) ;;
    strong) settings+=(--set uic.final_share=0 --set train-epoch.batch=256 --set uic.lr=0.1) ;;
    *) echo "$0: error: found no row $1" >&2; return 64 ;;
    esac
    walk "$1" "$2" uic
}

rows "$@"
