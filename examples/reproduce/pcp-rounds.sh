#!/usr/bin/env bash
# PCP, table IV: five rounds of AND with 1, 5, 10, 20 neighbours, of PCP without warm-up and of PCP with it, measured after each, on CIFAR-10.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; six runs of 5 x 200 epochs over 50,000 images of 32 px, ResNet-18. BACKBONE=convnet EPOCHS=20 for two cores
# Expect:    the paper's kNN by round: and:1 80.0 83.9 85.0 85.9 86.3; and:5 80.0 83.8 85.0 85.6 85.8; and:10 80.0 83.8 84.9 85.1 85.1;
#            and:20 80.0 83.3 84.3 84.6 84.6; cps 82.3 84.8 85.3 86.0 86.0; pcp 84.7 86.4 86.7 87.0 87.3; not run here (README.md)
#
# ROWS: and:NEIGHBOURS, cps (PCP without warm-up), pcp (with it).
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=and:1 and:5 and:10 and:20 cps pcp}" "${FINAL_K:=1000}" "${ROUNDS:=5}" "${OUT:=runs/pcp-rounds${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { # kind[:neighbours] seed
    configure "${1%%:*}" "$FINAL_K"
    [ "$method" != and ] || settings+=(--set "and.neighbors=${1#*:}")
    walk "$1" "$2" "$ROUNDS"
}

rows "$@"
