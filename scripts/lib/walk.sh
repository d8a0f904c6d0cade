#!/usr/bin/env bash
# Follow README's first steps to the letter: start the server, then type what stands under
# "Try it". Ends with 1 where no picture comes out. scripts/test-on-debian runs it.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

log=$(mktemp)
work=$(mktemp -d)
scripts/serve >"$log" 2>&1 &
server=$!
stop() {
  kill -TERM "$server" 2>/dev/null || true
  wait "$server" || true
}
trap stop EXIT
# The first start installs packages.
for ((n = 0; n < 600; n++)); do
  if grep -q "^Listening on" "$log"; then break; fi
  kill -0 "$server" 2>/dev/null || { cat "$log" && exit 1; }
  sleep 1
done
cat "$log"

# The commands below that heading, up to the end of their block.
awk '/^## Try it/ {here=1} here && /^```/ {if (inside) exit; inside=1; next} inside' README.md \
  >"$work/commands"
[ -s "$work/commands" ] || { echo "README.md has no commands under 'Try it'." && exit 1; }
cat "$work/commands"
before=$(mktemp)
timeout 300 bash -eu "$work/commands"
result=$(find . -maxdepth 1 -newer "$before" -type f | head -n 1)
[ -n "$result" ] || { echo "The commands of README.md left no picture." && exit 1; }
.venv/bin/python -c 'import sys; from PIL import Image; print(sys.argv[1], Image.open(sys.argv[1]).size)' "$result"
rm "$result"
