#!/usr/bin/env bash
# UIC: ResNet-50 with strong views, without and with two hidden layers under the classifier; ImageNet.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG
# Hardware:  one GPU of 80 GB (batches of 1,024) and fast storage; two runs of 500 epochs over 1.28 million photos
# Expect:    the paper's linear classifier and NMI: plain 62.7, 50.6; mlp 64.4, 53.3; not run here (README.md)
#
# ROWS: plain, mlp.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${BACKBONE:=resnet50}" "${LAYERS:=layer4}" "${ROWS:=plain mlp}"
: "${EPOCHS:=500}" "${K:=3000}" "${WIDTH:=2048}" "${OUT:=runs/uic-resnet50${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/labels.bash
source "$(dirname "$0")"/labels.bash

row() { # name seed
    settings+=(--set "uic.epochs=$EPOCHS" --set "uic.k=$K" --set uic.final_share=0)
    case $1 in
    plain) ;;
    mlp) settings+=(--set "train-epoch.mlp=$WIDTH") ;;
    *) echo "$0: error: found no row $1" >&2; return 64 ;;
    esac
    walk "$1" "$2" uic
}

parts() { echo 1; } # the average over the map

rows "$@"
