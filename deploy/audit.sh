#!/usr/bin/env bash
# Known vulnerabilities of what `tesserec[serve,redis]` brings, by pip-audit in an environment of its own.
#   deploy/audit.sh [PYTHON]
# Without a way to the vulnerability database it says so and passes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/audit"
"$python" -m venv "$folder/serve"
if ! "$folder/audit/bin/pip" install -qq pip-audit \
  || ! "$folder/serve/bin/pip" install -qq -c constraints.txt '.[serve,redis]'; then
  echo "audit skipped: the package index cannot be reached"
  exit 0
fi
"$folder/serve/bin/pip" -qq list --format=freeze --exclude tesserec --exclude pip --exclude setuptools > "$folder/installed"
status=0
"$folder/audit/bin/pip-audit" --disable-pip --no-deps -r "$folder/installed" > "$folder/found" 2> "$folder/said" || status=$?
unknown=$(grep -c 'could not be audited' "$folder/found" || true)
if [ "$unknown" -ge "$(wc -l < "$folder/installed")" ] \
  || { [ "$status" -ne 0 ] && ! grep -q '^Name' "$folder/found"; }; then
  echo "audit skipped: the vulnerability database cannot be reached"
  exit 0
fi
cat "$folder/found" "$folder/said"
exit "$status"
