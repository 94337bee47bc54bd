#!/usr/bin/env bash
# ProFeat on STL-10: SimCLR on 105,000 images, everything after it on the 5,000 training images; clusters of the test images.
#
# Data:      STL=stl10_binary.tar.gz, or the folder in it; or a folder with the folders train, test, and unlabeled, of images
# Hardware:  one GPU; ResNet-18 on 96 px. SimCLR's 500 epochs of 105,000 images once for each seed; then of 5,000 images scan 100,
#            self 200, s 15,000, e 5 x 45,000
# Expect:    the paper's ACC: scan 79.2 (its best), self 76.7, s 82.4, e 84.8; not run here (README.md)
#
# ROWS: see profeat.bash.
set -euo pipefail
: "${STL:?stl10_binary.tar.gz, or the folder in it, or a folder with train, test and unlabeled}" "${BACKBONE:=resnet18-96}" "${SIZE:=96}"
: "${ROWS:=scan self s e}" "${K:=10}" "${CONTRAST:=500}" "${CLUSTER:=100}" "${CLUSTER_BATCH:=128}" "${SELF:=0}" "${SELF_LABEL:=100}"
: "${THRESHOLD:=0.95}" "${CONNECTIONS:=1}" "${ITERATIONS:=100}" "${TOGETHER:=300}" "${OUT:=runs/profeat-stl10${VARIANT:+-$VARIANT}}"
# shellcheck source=examples/reproduce/profeat.bash
source "$(dirname "$0")"/profeat.bash
images "$STL"
if [ ${#truth[@]} -eq 0 ]; then
    (cd "$(dirname "${train[0]}")" && find train unlabeled -type f | LC_ALL=C sort) > "${TMPDIR:-/tmp}/stl10-$$.txt"
    mkdir -p "$OUT" && mv "${TMPDIR:-/tmp}/stl10-$$.txt" "$OUT/all.txt"
    trained_before=("$(dirname "${train[0]}")" --files-from "$(realpath "$OUT/all.txt")")
else
    trained_before=("${train[0]}" --split train+unlabeled)
fi
data=(--set "init.size=$SIZE" --set "init.pack=$SIZE")

rows "$@"
