#!/usr/bin/env bash
# ProFeat on the 20 coarse classes of CIFAR-100: clusters of the test images; SCAN, self-labels, one model and an ensemble.
#
# Data:      CIFAR=cifar-100-binary.tar.gz, or the folder in it; or a folder with train/<coarse class>/*.jpg and test/<coarse class>/*.jpg
# Hardware:  one GPU; ResNet-18, 50,000 images of 32 px. SimCLR's 500 epochs once for each seed; scan 100, self 300, s 3,450, e 5 x 3,450
#            and four more seeds of SimCLR
# Expect:    the paper's ACC: scan 44.0 (its best), self 45.9, s 50.0, e 52.6; not run here (README.md)
#
# ROWS: see profeat.bash.
set -euo pipefail
: "${CIFAR:?cifar-100-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=scan self s e}" "${K:=20}" "${CONTRAST:=500}" "${CLUSTER:=100}" "${CLUSTER_BATCH:=512}" "${SELF:=200}" "${SELF_LABEL:=$SELF}"
: "${THRESHOLD:=0.99}" "${CONNECTIONS:=10}" "${ITERATIONS:=10}" "${TOGETHER:=10}" "${OUT:=runs/profeat-cifar20${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/profeat.bash
source "$(dirname "$0")"/profeat.bash
images "$CIFAR"
trained_before=("${train[@]}")
data=(--set init.mean=0.5071,0.4867,0.4408 --set init.std=0.2675,0.2565,0.2761)
[ ${#truth[@]} -eq 0 ] || which=(--labels coarse) # of the release; folders are what they are

rows "$@"
