#!/usr/bin/env bash
# The demo: the creative agent's incident, from `check` to the report.
#
#   docs/demo.sh [FOLDER [-s KEY=VALUE]...]      FOLDER (demo) holds the run; what is there stays
#
# Through Slurm where one answers, else through the local scheduler. The exit code is the run's
# outcome. However the demo ends, nothing of it runs on.
set -euo pipefail
folder=$(realpath -m -- "${1:-demo}")
changes=("${@:2}")
job=$(dirname "$(realpath "$0")")/../jobs/creative_agent
export HPCKIT_ROOT=$folder

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
# No command gets the lock (9): a job would keep it to its end.
say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; "$@" 9<&-; }
quietly() { "$@" >/dev/null 2>&1 9<&-; }
lives() { hpckit ls --json 2>/dev/null 9<&- | grep -E '"state": "(pending|running|healing)"' >/dev/null; }
dies() { hpckit show --json 2>/dev/null 9<&- | grep '"ended": null' >/dev/null; }
newest() { hpckit show --json 2>/dev/null 9<&- | sed -n 's/^ "run": "\(.*\)",$/\1/p'; }
has_slurm() { quietly squeue; }

mkdir -p "$folder"
exec 9<"$folder"
if ! flock --nonblock 9 || lives; then
  echo "another demo runs in $folder: let it end, or choose another folder: make demo FOLDER=..." >&2
  exit 1
fi
end() {
  trap '' INT TERM HUP
  if lives; then
    echo "ending the run" >&2
    quietly hpckit cancel "$(newest)" || true
    # It saves its state first.
    for _ in {1..60}; do dies && sleep 0.5 || break; done
  fi
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

cat <<TEXT
A small model learns to mix two sounds. In its third epoch its gradients explode: their norm grows
from 2 to some hundreds, nearly all of it in one weight. hpckit names the weight, goes back to a
state that is known to be good, tightens clip and learning rate, and the training goes on to
its end. It takes one or two minutes; Ctrl-C ends it.
TEXT
say cd "$(realpath --relative-to=. "$job")"
say export HPCKIT_ROOT="$folder"
say hpckit check incident.yaml "${changes[@]}"
say hpckit submit incident.yaml "${changes[@]}"
has_slurm && say squeue --me --format '%14i %35j %10T %R'
outcome=0
say hpckit watch || outcome=$?
say hpckit show
if has_slurm; then
  say sacct -X --starttime now-1hour --format 'JobID,State,Start,End,NodeList%8' || true
  say hpckit checkpoint ls --verify
fi
say hpckit report
cat <<TEXT

That page tells it all, and needs no network: open it in a browser, or let hpckit do so.
  export HPCKIT_ROOT=$(printf %q "$folder") PATH=$(printf %q "$(dirname "$(command -v hpckit)")"):\$PATH
  hpckit report --open
TEXT
exit "$outcome"
