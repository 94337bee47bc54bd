#!/usr/bin/env bash
# ProFeat on CIFAR-10: clusters of the test images; SCAN, self-labels, the components, one model and an ensemble.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; ResNet-18, 50,000 images of 32 px. SimCLR's 500 epochs once for each seed; scan 50, self 250, a to s 2,950 each,
#            d and e 5 x 2,950 and four more seeds of SimCLR. BACKBONE=convnet CONTRAST=20 and so on for two cores
# Expect:    the paper's ACC: scan 81.6 (its best), self 87.6, a 86.9, b 87.7, c 88.1, s 88.7, d 89.3, e 92.4; not run here (README.md)
#
# ROWS: see profeat.bash.
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=scan self a b c s d e}" "${K:=10}" "${CONTRAST:=500}" "${CLUSTER:=50}" "${CLUSTER_BATCH:=128}" "${SELF:=200}" "${SELF_LABEL:=$SELF}"
: "${THRESHOLD:=0.99}" "${CONNECTIONS:=20}" "${ITERATIONS:=10}" "${TOGETHER:=10}" "${OUT:=runs/profeat-cifar10${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/profeat.bash
source "$(dirname "$0")"/profeat.bash
images "$CIFAR"
trained_before=("${train[@]}")

rows "$@"
