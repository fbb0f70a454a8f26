#!/usr/bin/env bash
# The demo on a Slurm of its own, which is gone after it: what explodes ends the job, and the next
# job of the chain goes on. Needs root and Debian's Slurm.
#
#   docs/demo_slurm.sh [FOLDER [-s KEY=VALUE]...]
set -euo pipefail
cluster=$(mktemp -d /tmp/hpckit-demo.XXXXXX)
end() {
  trap '' INT TERM HUP
  # Empty, it never came up.
  rmdir "$cluster" 2>/dev/null || { hpckit cluster down --folder "$cluster" && rm -rf "$cluster"; }
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
echo "A Slurm of two nodes on this machine, for this demo alone. What explodes ends its job there; Slurm
starts the next one of the chain, which goes on from a checkpoint of before, with a tighter clip."
hpckit cluster up --folder "$cluster"
eval "$(hpckit cluster env --folder "$cluster")"
bash "$(dirname "$0")/demo.sh" "${1:-demo-slurm}" -s heal.explosion.do=resubmit "${@:2}"
