#!/usr/bin/env bash
# CIFAR-10, the first 1,000 training images of each class, 20 epochs: the experiment of examples/RESULTS.md.
#
# Data:      CIFAR=folder with train/<class>/*.jpg and test/<class>/*.jpg (50,000 + 10,000 images of 32 px)
# Hardware:  1 CPU core a run, two runs at a time; about 8 minutes a run on an idle core
# Expect:    see examples/RESULTS.md
set -euo pipefail
: "${CIFAR:?the folder that holds train and test}" "${OUT:=runs/cifar10-small}" "${EPOCHS:=20}" "${SEEDS:=0 1 2}" "${METHODS:=deepcluster persistent}"
: "${PER_CLASS:=1000}" "${SETTINGS:=}" "${JOBS:=2}"
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd) CIFAR=$(cd "$CIFAR" && pwd)
list=$OUT/list.txt
for class in "$CIFAR"/train/*/; do
    find "$class" -name '*.jpg' | sort | head -n "$PER_CLASS" || true
done | sed "s|^$CIFAR/train/||" > "$list"

one() { # method seed
    local dir=$OUT/$1-$2 code=0
    # shellcheck disable=SC2086  # SETTINGS holds several words
    ucl run "$1" "$CIFAR/train" --files-from "$list" -o "$dir" --seed "$2" -j 1 --epochs "$EPOCHS" $SETTINGS -q </dev/null || code=$?
    [ "$code" -eq 0 ] || [ "$code" -eq 76 ] || return "$code"
    cd "$dir"
    for net in untrained trained; do
        if [ "$net" = untrained ]; then model="--backbone convnet --seed $2"; else model="--model model.h5"; fi
        # shellcheck disable=SC2086
        ucl extract $model -o "$net.train.h5" -f -q
        # shellcheck disable=SC2086
        ucl extract "$CIFAR/test" $model -o "$net.test.h5" -f -q
        ucl evaluate knn "$net.train.h5" --test "$net.test.h5" --json > "$net.knn.json"
        ucl cluster "$net.train.h5" -k $((PER_CLASS / 5)) --seed 0 -o - -q | ucl evaluate clusters --json > "$net.clusters.json"
        rm -f "$net.train.h5" "$net.test.h5"
    done
}
export -f one
export OUT CIFAR EPOCHS SETTINGS PER_CLASS list
for seed in $SEEDS; do for method in $METHODS; do echo "$method $seed"; done; done |
    xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; one "$0" "$1"'

python - "$OUT" <<'PY'
import json, pathlib, sys
print("| method | seed | loss | log K | kNN untrained | kNN trained | NMI untrained | NMI trained | NMI to last |\n|---|---|---|---|---|---|---|---|---|")
for d in sorted(p.parent for p in pathlib.Path(sys.argv[1]).glob("*/trained.clusters.json")):
    last = json.loads(max(d.glob("epochs/*/metrics.json")).read_text())
    def read(net, what, name):
        return json.loads((d / f"{net}.{what}.json").read_text())["metrics"][name]["value"]
    cells = [read(n, "knn", "knn_top1") for n in ("untrained", "trained")] + [read(n, "clusters", "nmi_arithmetic") for n in ("untrained", "trained")]
    method, seed = d.name.rsplit("-", 1)
    print(f"| {method} | {seed} | {last['loss']:.3f} | {last['log_k']:.3f} | " + " | ".join(f"{c:.4f}" for c in cells) + f" | {last.get('nmi_arithmetic', float('nan')):.3f} |")
PY
