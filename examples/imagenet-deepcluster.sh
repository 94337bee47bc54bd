#!/usr/bin/env bash
# DeepCluster as its paper ran it (Caron et al., ECCV 2018, section 4.1): ImageNet, AlexNet with batch norm behind a Sobel filter,
# K = 10,000, 500 epochs, batch 256, learning rate 0.05, weight decay 1e-5, random-resized crops of 224 px and flips.
#
# Data:      IMAGENET=folder of 1,000 class folders with 1,281,167 JPEG files (or a .tar of it, or an images.h5 of `ucl pack`)
# Hardware:  one GPU and fast storage; the paper took 12 days on a P100. Features: 21 GB a clustering (1.28 M x 4,096)
# Expect:    not run here. The paper's linear probes, 10 crops, conv1-5: 13.4 32.3 41.0 39.6 38.2
# Every number is the plan's own for views of this size; SETTINGS changes any: SETTINGS="--set cluster.k=1000".
# Under Slurm: sbatch --requeue --signal=USR2@120 and `srun` before this script; exit code 75 asks for a requeue.
set -euo pipefail
: "${IMAGENET:?the folder of class folders}" "${OUT:=runs/imagenet-deepcluster}" "${BACKBONE:=alexnet-bn}" "${EPOCHS:=500}"
: "${SEED:=31}" "${PRECISION:=float32}" "${SETTINGS:=}"

code=0
# shellcheck disable=SC2086
ucl run deepcluster "$IMAGENET" -o "$OUT" --seed "$SEED" --epochs "$EPOCHS" --precision "$PRECISION" \
    --set init.backbone="$BACKBONE" --set init.sobel=true --set init.pack=none --set init.on_error=skip $SETTINGS </dev/null || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 76 ] || exit "$code"
cd "$OUT"

for layer in conv1 conv3 conv5; do # a quick look; the paper's probe trains on augmented views
    ucl extract --model model.h5 --layer "$layer" --map grid-6 -f -o "work/$layer.h5" -q </dev/null
    ucl evaluate linear "work/$layer.h5" --solver sgd </dev/null
    rm "work/$layer.h5"
done
