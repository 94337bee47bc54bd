#!/usr/bin/env bash
# PCP, table II: the share gamma of each cluster that is cut by distance, without and with votes, on CIFAR-10 at 100 final clusters.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; fourteen runs of 200 epochs over 50,000 images of 32 px, ResNet-18. BACKBONE=convnet EPOCHS=20 for two cores
# Expect:    the paper's kNN, for gamma 0, .3, .5, .7, .9, .95, .99: cpr 76.9 77.7 78.9 79.8 81.4 81.6 81.7; cps 80.3 81.5 81.6 81.3 81.1
#            80.9 80.6; not run here (README.md)
#
# ROWS: cpr:GAMMA and cps:GAMMA.  With VARIANT=released half of a cluster is kept at most, so that 0, 0.3 and 0.5 differ in the first half only.
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=cpr:0 cpr:0.3 cpr:0.5 cpr:0.7 cpr:0.9 cpr:0.95 cpr:0.99 cps:0 cps:0.3 cps:0.5 cps:0.7 cps:0.9 cps:0.95 cps:0.99}"
: "${FINAL_K:=100}" "${OUT:=runs/pcp-gamma${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { # kind:gamma seed
    configure "${1%%:*}" "$FINAL_K"
    kept=$(awk "BEGIN { print 1 - ${1#*:} }")
    settings+=(--set "pcp.keep_nearest=$kept")
    walk "$1" "$2" 1
}

rows "$@"
