#!/usr/bin/env bash
# PCP, table VI: AlexNet on CIFAR-10 or CIFAR-100, neighbours by its last layer and a linear classifier on its fifth convolution.
#
# Data:      CIFAR=cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder in it, or a folder with train/<class>/*.jpg and
#            test/<class>/*.jpg; an OUT for each data set
# Hardware:  one GPU; 1,400 epochs in all over 50,000 images, shown at 224 px. BACKBONE=alexnet-32 EPOCHS=20 for two cores
# Expect:    the paper's kNN and linear, CIFAR-10: dc 70.3, 77.1; ir 68.1, 76.6; is 76.4, 78.7; and 76.1, 79.2; pcp 77.1, 79.9; supervised 91.9,
#            91.8; CIFAR-100: dc 27.4, 44.0; ir 39.6, 49.5; is 46.3, 51.2; and 44.2, 52.8; pcp 48.4, 53.0; supervised 69.7, 71.0; not run here
#
# ROWS as in pcp-methods.sh.  The paper does not say how AlexNet takes 32 px: alexnet-bn shows them at 224, alexnet-32 as they are.
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, or the folder in it, or a folder with train and test}" "${BACKBONE:=alexnet-bn}"
: "${ROWS:=dc ir is and pcp supervised}" "${FINAL_K:=1000}" "${MEASURE:=knn linear}"
name=$(basename "$CIFAR" .tar.gz)
: "${OUT:=runs/pcp-alexnet-$name${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/pcp.bash
source "$(dirname "$0")"/pcp.bash
images "$CIFAR"

row() { methods "$@"; }

rows "$@"
