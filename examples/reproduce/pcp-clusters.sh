#!/usr/bin/env bash
# PCP, table III: the number of clusters, of DeepCluster, PCP without warm-up and PCP with it, on CIFAR-10.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; 21 runs of 200 epochs over 50,000 images of 32 px, ResNet-18. BACKBONE=convnet EPOCHS=20 for two cores
# Expect:    the paper's kNN, for 10k, 5k, 3k, 1k, 100, 10, 5 clusters: dc 82.9 83.0 82.1 80.6 73.6 62.0 56.9; cps 81.7 81.6 81.8 82.3 81.6
#            82.0 81.8; pcp 84.1 84.4 84.3 84.7 83.9 83.1 83.2; not run here (README.md)
#
# ROWS: dc:K, cps:K (PCP without warm-up), pcp:K (with it).
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=dc:10000 dc:5000 dc:3000 dc:1000 dc:100 dc:10 dc:5 cps:10000 cps:5000 cps:3000 cps:1000 cps:100 cps:10 cps:5
    pcp:10000 pcp:5000 pcp:3000 pcp:1000 pcp:100 pcp:10 pcp:5}" "${OUT:=runs/pcp-clusters${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { # kind:clusters seed
    configure "${1%%:*}" "${1#*:}"
    walk "$1" "$2" 1
}

rows "$@"
