#!/usr/bin/env bash
# PCP, table VII: 100 classes of ImageNet, AlexNet with batch norm at 224 px, 10,000 final clusters, with warm-up.
#
# Data:      IMAGENET=folder with train/<class>/*.JPEG and val/<class>/*.JPEG, CLASSES=text file of the 100 class folders, one per line
#            (the paper's list comes with its released code)
# Hardware:  one GPU and fast storage; 200 epochs over some 127,000 photos, decoded anew for every view (PACK=256 keeps squares of that side)
# Expect:    the paper's kNN 50.7 and linear on conv5 56.9 (MoCo there: 50.1, 55.4); not run here (README.md)
#
# ROWS: pcp; also dc, ir, is and cps (PCP without warm-up), which the paper does not have for these images.
set -euo pipefail
: "${IMAGENET:?the folder with train and val}" "${CLASSES:?the list of class folders}" "${BACKBONE:=alexnet-bn}" "${ROWS:=pcp}" "${FINAL_K:=10000}"
: "${PACK:=none}" "${MEASURE:=knn linear}" "${OUT:=runs/pcp-imagenet100${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
IMAGENET=$(realpath "$IMAGENET") CLASSES=$(realpath "$CLASSES")
train=("$IMAGENET/train" --classes "$CLASSES") test=("$IMAGENET/val" --classes "$CLASSES") truth=()

row() { # kind seed
    configure "$1" "$FINAL_K"
    settings+=(--set init.pack="$PACK" --set "$method.lr_factor=0.1,0.05") # the last drop to a twentieth
    [ "$1" != pcp ] || settings+=(--set pcp.warm_up_end=0.55)
    walk "$1" "$2" 1
}

rows "$@"
