#!/usr/bin/env bash
# The demo: a fresh job folder, submitted to the local scheduler, followed to its end.
set -euo pipefail
folder=${1:-demo}
rm -rf "$folder"
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
say hpckit init "$folder"
cd "$folder"
say hpckit check
say hpckit submit --cluster local --follow
say hpckit ls
say hpckit show
