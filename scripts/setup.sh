#!/usr/bin/env bash
# Makes a Debian 12 machine able to build moray: installs the packages that are missing, and only those.
# Assumes bash, awk and coreutils. docs/dependencies.md gives each package's reason.
set -euo pipefail

PACKAGES=(
  cmake ninja-build g++ pkg-config
  libhwy-dev libfmt-dev libspdlog-dev nlohmann-json3-dev libsimdjson-dev libcli11-dev libtomlplusplus-dev
  libcurl4-openssl-dev libssl-dev libpcre2-dev libutf8proc-dev libxxhash-dev libzstd-dev zlib1g-dev liblzma-dev libgtest-dev libjs-dygraphs
)

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$*"; exit 1; }

require_avx2() {
  local cpuinfo=${MORAY_CPUINFO:-/proc/cpuinfo}
  awk '/^flags/ { found = / avx2( |$)/ && / fma( |$)/; exit } END { exit !found }' "$cpuinfo" ||
    stop "this processor lacks AVX2 and FMA, which moray's kernels need (Intel Haswell, AMD Zen or newer)"
}

# The packages not installed, one a line.
missing_packages() {
  local installed
  # dpkg-query fails when it has never heard of one of them, and still lists the others.
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${PACKAGES[@]}" 2>/dev/null || true)
  printf '%s\n' "${PACKAGES[@]}" |
    awk -v installed="$installed" '
      BEGIN { n = split(installed, lines, "\n")
              for (i = 1; i <= n; i++) { split(lines[i], f, " "); if (f[1] == "installed") have[f[2]] = 1 } }
      !($1 in have)'
}

# Waits for another apt or dpkg at work, asks nothing, retries a shaky network.
APT=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)

# DPkg::Lock::Timeout does not cover the lock of the package lists, so a busy one is waited for here.
update_lists() {
  local output tries
  for tries in {1..60}; do
    if output=$("${AS_ROOT[@]}" "${APT[@]}" update 2>&1); then return 0; fi
    [[ $output == *"Could not get lock"* ]] || break
    [[ $tries == 1 ]] && say "waiting for another apt to finish"
    sleep "${MORAY_APT_POLL_SECONDS:-5}"
  done
  say "apt-get update failed; trying with the lists at hand:"
  printf '%s\n' "$output" | tail -n 3 >&2
}

install_packages() {
  local install=("${APT[@]}" install --no-install-recommends "$@")
  if "${APT[@]}" -s install --no-install-recommends "$@" >/dev/null 2>&1; then
    if "${AS_ROOT[@]}" "${install[@]}" >&2; then return 0; fi
    say "that failed; once more with fresh package lists"
  fi
  update_lists
  "${AS_ROOT[@]}" "${install[@]}" >&2 || stop "apt-get could not install: $*"
}

main() {
  require_avx2
  command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    stop "no dpkg and apt-get here; install the counterparts of: ${PACKAGES[*]}"
  local missing
  mapfile -t missing < <(missing_packages)
  [[ ${#missing[@]} -gt 0 ]] || return 0

  say "these Debian packages are missing and will be installed: ${missing[*]}"
  if [[ $(id -u) == 0 ]]; then
    AS_ROOT=()
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    AS_ROOT=(sudo -n)
  elif command -v sudo >/dev/null && [[ -t 0 ]]; then
    AS_ROOT=(sudo)
  else
    say "neither root nor sudo at hand; let an administrator run this, then come back:"
    printf '  apt-get update && apt-get install -y --no-install-recommends %s\n' "${missing[*]}" >&2
    exit 1
  fi
  install_packages "${missing[@]}"
}

main
