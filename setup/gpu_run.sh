#!/usr/bin/env bash
# Unpacks xlstm-bun beside this file, or into $XL_TREE, and runs recipes there. Needs bash and
# Python 3, whose lzma module unpacks: no Bun, no compiler, no network. Written by bench/gpu-run.
#
#   bash run.sh                          the commands it was packed with
#   bash run.sh info + bench gpu --json  others: a lone + starts the next one
#
# Leaves with the first status that is not 0; later commands run all the same.
set -u
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit 1
tree="${XL_TREE:-$here/tree}"
stamp='@STAMP@'

unpack() {
  python3 - "$here" "$tree" "$stamp" <<'PYTHON'
import lzma, os, shutil, sys, tarfile

here, tree, stamp = sys.argv[1:]
old, partial = tree + ".old", tree + ".partial"
if os.path.exists(os.path.join(tree, ".unpacked")):
    # An earlier version: its runs/ may be wanted.
    shutil.rmtree(old, ignore_errors=True)
    os.rename(tree, old)
elif os.path.isdir(tree) and os.listdir(tree):
    sys.exit(f"run.sh: {tree} holds other files; set XL_TREE to a folder that is empty or new")
shutil.rmtree(partial, ignore_errors=True)
os.makedirs(partial)
with tarfile.open(os.path.join(here, "tree.tar.xz"), "r:xz") as archive:
    if hasattr(tarfile, "data_filter"):
        archive.extractall(partial, filter="data")
    else:
        archive.extractall(partial)
bun = os.path.join(partial, "node_modules", ".bin", "bun")
os.makedirs(os.path.dirname(bun), exist_ok=True)
with lzma.open(os.path.join(here, "bun.xz")) as packed, open(bun, "wb") as to:
    shutil.copyfileobj(packed, to, 1 << 20)
os.chmod(bun, 0o755)
with open(os.path.join(partial, ".unpacked"), "w") as to:
    to.write(stamp + "\n")
if os.path.isdir(tree):
    os.rmdir(tree)
os.rename(partial, tree)
PYTHON
}

[ "$(cat "$tree/.unpacked" 2>/dev/null)" = "$stamp" ] || unpack || exit 1
cd "$tree" || exit 1
bun="$PWD/node_modules/.bin/bun"
first=0

run() {
  [ $# -gt 0 ] || return 0
  printf '=== %s\n' "$*" >&2
  local name="$1"
  shift
  if [ "$name" = test ]; then
    # Tiers by their names, as `bun run test` has them; other words go to Bun's own test runner.
    local words=()
    [ $# -gt 0 ] || set -- gpu
    for word in "$@"; do
      if [ -e "test/$word" ]; then words+=("./test/$word"); else words+=("$word"); fi
    done
    "$bun" test --timeout=60000 "${words[@]}"
  elif [ -f "recipes/$name.ts" ]; then
    "$bun" --preload ./setup/signals.mjs "recipes/$name.ts" "$@"
  else
    "$bun" "$name" "$@"
  fi
  local status=$?
  [ $status -eq 0 ] || printf '=== %s: exit status %s\n' "$name" "$status" >&2
  [ $first -ne 0 ] || first=$status
}

[ $# -gt 0 ] || set -- @COMMANDS@
words=()
for word in "$@"; do
  if [ "$word" = + ]; then
    run ${words[@]+"${words[@]}"}
    words=()
  else
    words+=("$word")
  fi
done
run ${words[@]+"${words[@]}"}
exit "$first"
