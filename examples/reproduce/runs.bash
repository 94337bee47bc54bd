# shellcheck shell=bash disable=SC2034,SC2154  # arrays set here are read in the scripts, and the reverse
# What the scripts of this folder share, through pcp.bash and labels.bash.
#
# Of every one of them:
#   SCRIPT             all ROWS and SEEDS, JOBS at a time, then the table on standard output
#   SCRIPT ROW SEED    one, as for a Slurm array; JOBS runs beside each other on one GPU seldom pay
# Any may be stopped or killed and started again by the same line: it goes on inside the epoch, and refuses other settings.
# Under Slurm: sbatch --requeue --signal=USR2@120 and `srun` before the script; exit code 75 asks for a requeue.

: "${SEEDS:=0}" "${JOBS:=1}" "${PRECISION:=float32}" "${SETTINGS:=}"
# SETTINGS: more words for every row, as "-j 4 --files-from part.txt".
# A script has a MEASURE, words of which take() prints a report as JSON, and columns, each of such a word, the metric in it, and a title.
# shellcheck source=examples/jobs.bash
source "$(dirname "${BASH_SOURCE[0]}")"/../jobs.bash

images() { # data: training and test images of a released data set, or of a folder with the folders train and test
    local at
    at=$(realpath "$1")
    if [ -d "$at/train" ] && [ -d "$at/test" ]; then
        train=("$at/train") test=("$at/test") truth=()
    else
        train=("$at" --split train) test=("$at" --split test) truth=(--targets "$at" --test-targets "$at")
    fi
}

begin() { # directory method seed options: make the run directory, or refuse other settings of one that is there
    local dir=$1 name=$2 seed=$3 code=0
    shift 3
    # shellcheck disable=SC2086
    if [ -e "$dir/ucl.toml" ]; then
        ucl run "$name" "${train[@]}" -o "$dir" --dry-run --seed "$seed" --precision "$PRECISION" --set init.backbone="$BACKBONE" \
            "${settings[@]}" "$@" $SETTINGS </dev/null >/dev/null || code=$?
        [ "$code" -eq 0 ] || [ "$code" -eq 76 ] || exit "$code"
    else
        ucl init "$name" "${train[@]}" -o "$dir" --seed "$seed" --precision "$PRECISION" --set init.backbone="$BACKBONE" \
            "${settings[@]}" "$@" $SETTINGS </dev/null
    fi
}

epoch_of() { # directory
    ucl status "$1" --json </dev/null | python -c 'import json, sys; print(json.load(sys.stdin)["epoch"])'
}

go_on() { # directory epoch: run to that epoch, or as far as the plan goes
    local epoch code=0
    epoch=$(epoch_of "$1")
    [ "$epoch" -lt "$2" ] || return 0
    go
    ucl run -o "$1" --limit $(($2 - epoch)) </dev/null >&2 || code=$?
    [ "$code" -eq 0 ] || exit "$code"
}

take() { "$@"; } # what, and more words: it is the name of a function

measure() { # directory round, and more words for take(): what MEASURE names, unless it is there already
    go
    (
        heed
        cd "$1"
        for what in $MEASURE; do
            [ ! -e "round-$2.$what.json" ] || continue
            go
            take "$what" "${@:3}" > work/measured
            mv work/measured "round-$2.$what.json"
        done
        rm -f work/train.h5 work/test.h5
    )
}

rows() { # [row seed]: that one, or all ROWS and SEEDS, and the table
    mkdir -p "$OUT"
    if [ $# -gt 0 ]; then
        row "$1" "${2:-0}"
        return
    fi
    OUT=$(realpath "$OUT")
    export OUT
    each < <(for seed in $SEEDS; do for row in $ROWS; do echo "$row $seed"; done; done)
    ROWS=$ROWS SEEDS=$SEEDS python - "$OUT" "${columns[@]}" <<'PY'
import json, os, pathlib, sys
columns = [column.split(":") for column in sys.argv[2:]]
print("| row | seed | round | " + " | ".join(title for _, _, title in columns) + " |\n|" + "---|" * (3 + len(columns)))
for row in os.environ["ROWS"].split():
    for seed in os.environ["SEEDS"].split():
        folder = pathlib.Path(sys.argv[1]) / f"{row.replace(':', '-')}-{seed}"
        for number in sorted({int(p.name.split("-")[1].split(".")[0]) for p in folder.glob("round-*.json")}):
            cells = []
            for what, metric, _ in columns:
                path = folder / f"round-{number}.{what}.json"
                found = json.loads(path.read_text())["metrics"][metric] if path.exists() else {}
                cells.append(f"{100 * found['value']:.1f}" if found else "")
                if found.get("low") is not None:
                    cells[-1] += f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
            print(f"| {row} | {seed} | {number} | " + " | ".join(cells) + " |")
PY
}
