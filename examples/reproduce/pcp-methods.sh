#!/usr/bin/env bash
# PCP, table V: PCP beside other methods on CIFAR-10, from an untrained network to one trained on the true classes.
#
# Data:      CIFAR=cifar-10-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and test/<class>/*.jpg
# Hardware:  one GPU; 3,400 epochs in all over 50,000 images of 32 px, ResNet-18. BACKBONE=convnet EPOCHS=20 for two cores
# Expect:    the paper's kNN: random 32.1, supervised 93.1, dc 80.6, ir 80.8, is 83.6, and 84.2, pcp 84.7, and:5 86.3, pcp:5 87.3;
#            not run here (README.md)
#
# ROWS: random, supervised, and dc, ir, is, and, pcp, each with a number of rounds behind a colon, or one (and: two, its one-off form).
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=resnet18-32}"
: "${ROWS:=random supervised dc ir is and pcp and:5 pcp:5}" "${FINAL_K:=1000}" "${OUT:=runs/pcp-methods${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { methods "$@"; }

rows "$@"
