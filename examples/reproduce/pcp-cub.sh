#!/usr/bin/env bash
# PCP, table VIII: birds, CUB-200-2011, ResNet-18, 500 final clusters, batches of 64.
#
# Data:      CUB=CUB_200_2011, the unpacked folder of the release (its own split: 5,994 training and 5,794 test images), or a folder with
#            train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; 1,000 epochs in all over 5,994 photos at 224 px, decoded anew for every view (PACK=256 keeps squares of that side)
# Expect:    the paper's kNN: random 2.6, ir 11.6, dc 13.1, and 14.1, pcp 16.9; not run here (README.md)
#
# ROWS as in pcp-methods.sh.  The paper does not say how large the views are: 224 px are taken.
set -euo pipefail
: "${CUB:?CUB_200_2011, the folder of the release}" "${BACKBONE:=resnet18}" "${ROWS:=random ir dc and pcp}" "${FINAL_K:=500}" "${PACK:=none}"
: "${OUT:=runs/pcp-cub${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CUB"
data=(--set init.pack="$PACK" --set train-epoch.batch=64)

row() { methods "$@"; }

rows "$@"
