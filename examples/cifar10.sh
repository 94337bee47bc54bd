#!/usr/bin/env bash
# DeepCluster on all of CIFAR-10 from its binary release: 50,000 images, ResNet-18 with the 32-px stem, K = 1,000, 200 epochs.
#
# Data:      CIFAR=cifar-10-binary.tar.gz or the folder in it (the "binary version" of the release; nothing is unpickled)
# Hardware:  one GPU; a CPU would take days. For two cores: BACKBONE=convnet EPOCHS=20, about an hour
# Expect:    not run here on a GPU; for a small CPU run see examples/RESULTS.md. The features of PCP's table III reach 80.6 (kNN) with
#            DeepCluster at K = 1,000
# May be killed at any moment and started again: the same line goes on inside the epoch.
set -euo pipefail
: "${CIFAR:?cifar-10-binary.tar.gz, or the folder in it}" "${OUT:=runs/cifar10}" "${METHOD:=deepcluster}" "${BACKBONE:=resnet18-32}"
: "${EPOCHS:=200}" "${SEED:=0}" "${PRECISION:=float32}" "${SETTINGS:=}"
CIFAR=$(realpath "$CIFAR")

code=0
# shellcheck disable=SC2086  # SETTINGS holds several words, as in SETTINGS="--set cluster.k=3000"
ucl run "$METHOD" "$CIFAR" --split train -o "$OUT" --seed "$SEED" --epochs "$EPOCHS" --precision "$PRECISION" \
    --set init.backbone="$BACKBONE" --set train-epoch.batch=256 --set train-epoch.weight_decay=5e-4 $SETTINGS </dev/null || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 76 ] || exit "$code" # 76: done already; 75: stopped with everything on disk, start again
cd "$OUT"

ucl extract --model model.h5 --final-relu -f -o work/train.h5 -q </dev/null
ucl extract "$CIFAR" --split test --model model.h5 --final-relu -f -o work/test.h5 -q </dev/null
ucl evaluate knn work/train.h5 --test work/test.h5 --targets "$CIFAR" --test-targets "$CIFAR" </dev/null
ucl evaluate linear work/train.h5 --test work/test.h5 --targets "$CIFAR" --test-targets "$CIFAR" </dev/null
ucl evaluate clusters labels.h5 --targets "$CIFAR" </dev/null
