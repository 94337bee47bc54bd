#!/usr/bin/env bash
# PCP, table I: what each component adds, on CIFAR-10 at 100 final clusters, without warm-up.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; four runs of 200 epochs over 50,000 images of 32 px, ResNet-18. BACKBONE=convnet EPOCHS=20 for two cores
# Expect:    the paper's kNN: dc 73.6, pc 76.9, cpr 78.9, cps 81.6; not run here (README.md)
#
# ROWS: dc (100 clusters from the first epoch), pc (ever fewer), cpr (the half near the mean), cps (and votes).
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${ROWS:=dc pc cpr cps}" "${BACKBONE:=resnet18-32}"
: "${FINAL_K:=100}" "${OUT:=runs/pcp-components${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { # kind seed
    configure "$1" "$FINAL_K"
    walk "$1" "$2" 1
}

rows "$@"
