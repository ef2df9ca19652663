#!/usr/bin/env bash
# System programs that some tests drive: a browser, a Redis server, a load generator. On Debian and its children, as
# root, what is missing is installed; anywhere else this says so in one line, and those tests are skipped.
set -uo pipefail

declare -A package_of=([chromium]=chromium [redis-server]=redis-server [wrk]=wrk)
missing=()
for program in "${!package_of[@]}"; do
  command -v "$program" > /dev/null || missing+=("${package_of[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

skip() { echo "tests that need ${missing[*]} will be skipped: $1"; exit 0; }
command -v apt-get > /dev/null || skip "this is not Debian, install them by hand"
[ "$(id -u)" -eq 0 ] || skip "run $0 as root to install them"

# Without a policy that forbids it, installing redis-server would also start one.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } > /dev/null 2>&1 < /dev/null \
  || skip "apt-get could not install them"
echo "installed for the tests: ${missing[*]}"
