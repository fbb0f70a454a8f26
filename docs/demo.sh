#!/usr/bin/env bash
# The demo: a fresh job folder, submitted to the local scheduler, followed to its end.
set -euo pipefail
folder=${1:-demo}
rm -rf "$folder"
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
say hpckit init "$folder"
cd "$folder"
say hpckit check
say hpckit submit --cluster local --follow
say hpckit ls
say hpckit show
