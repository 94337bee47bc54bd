# shellcheck shell=bash
# Signals and jobs, for scripts that run ucl: source it after `set -euo pipefail`.
#
# What ucl runs stops at a signal with its work on disk.  Slurm sends it to every process of a step, and so does a terminal; a shell that died of
# it would leave ucl behind, still saving.  So these shells wait for what they run, start nothing more, and end in 75 (or 130, 143).

stopping=
heed() { # also in every subshell that runs something: it forgets the traps
    trap 'stopping=75' USR1 USR2
    trap 'stopping=130' INT
    trap 'stopping=143' TERM
}
heed

ended() {
    local code=$?
    [ "$code" -eq 0 ] || exit "${stopping:-$code}"
}
trap ended EXIT

go() { [ -z "$stopping" ] || exit "$stopping"; } # before anything that takes long

each() { # words: this script with them and those of a line of standard input, for every line, JOBS at a time; the first that fails ends all
    local lines line pids=() failed=0
    mapfile -t lines
    for line in "${lines[@]}"; do
        while [ "${#pids[@]}" -ge "$JOBS" ]; do reap; done
        [ "$failed" -eq 0 ] && [ -z "$stopping" ] || break
        # shellcheck disable=SC2086
        (
            trap - INT QUIT TERM USR1 USR2 # what a shell starts beside itself ignores the first two otherwise
            exec bash "$0" "$@" $line </dev/null
        ) &
        pids+=($!)
    done
    while [ "${#pids[@]}" -gt 0 ]; do reap; done
    [ "$failed" -eq 0 ] || exit "$failed"
    go
}

reap() { # of each(): wait until one has ended, and note the code of the first that failed
    local pid left=() code
    wait -n || true # a signal ends this wait as well
    for pid in "${pids[@]}"; do
        code=0
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
        else
            wait "$pid" || code=$?
            [ "$failed" -ne 0 ] || failed=$code
        fi
    done
    pids=(${left[@]+"${left[@]}"})
}
