#!/usr/bin/env bash
# scripts/setup.sh in every situation it may meet, with stand-ins for apt-get, dpkg-query, sudo and id.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# Nothing but these names is found: a machine as bare as the stand-ins make it.
real_tools=(bash env awk tail cat sleep true)

# A machine where all packages but MISSING are installed; every call of apt-get and sudo goes to the log.
new_machine() {
  rm -rf "$work/bin" "$work/log"
  mkdir -p "$work/bin"
  : >"$work/log"
  for tool in "${real_tools[@]}"; do ln -s "$(type -P "$tool")" "$work/bin/$tool"; done
  MISSING="" USER_ID=0 SIMULATE=0 INSTALL="0" UPDATE="0"
  printf 'flags\t\t: fpu avx avx2 bmi1 fma\n' >"$work/cpuinfo"
  stand_in dpkg-query '
    for p in "$@"; do
      case $p in -W | -f | *Status*) continue ;; esac
      case " $MISSING " in *" $p "*) status=1 ;; *) echo "installed $p" ;; esac
    done
    exit "${status:-0}"'
  stand_in id 'echo "$USER_ID"'
  # INSTALL and UPDATE: exit statuses of the calls in turn; the last one repeats.
  stand_in apt-get '
    echo "apt-get $*" >>"$LOG"
    case " $* " in
      *" -s "*) exit "$SIMULATE" ;;
      *" update "*) kind=UPDATE list=$UPDATE ;;
      *) kind=INSTALL list=$INSTALL ;;
    esac
    [[ $kind == UPDATE && $list == lock ]] && { list="100 0"; echo "E: Could not get lock /var/lib/apt/lists/lock" >&2; }
    set -- $list
    read -r used <"$LOG.$kind" || used=0
    echo $((used + 1)) >"$LOG.$kind"
    (($# > used)) && shift "$used" || shift $(($# - 1))
    exit "$1"'
  rm -f "$work"/log.*
  : >"$work/log.INSTALL" ; : >"$work/log.UPDATE"
}

stand_in() {
  printf '#!%s\n%s\n' "$(type -P bash)" "$2" >"$work/bin/$1"
  chmod +x "$work/bin/$1"
}

setup() {
  output=$(env -i PATH="$work/bin" LOG="$work/log" MISSING="$MISSING" USER_ID="$USER_ID" SIMULATE="$SIMULATE" \
    INSTALL="$INSTALL" UPDATE="$UPDATE" MORAY_CPUINFO="$work/cpuinfo" MORAY_APT_POLL_SECONDS=0 \
    bash "$root/scripts/setup.sh" 2>&1 </dev/null)
  status=$?
}

expect() { # expect WHAT CONDITION...
  local what=$1
  shift
  if ! "$@"; then
    failures=$((failures + 1))
    printf 'FAILED: %s: %s\n--- status %s, output:\n%s\n--- calls:\n%s\n' "$case" "$what" "$status" "$output" \
      "$(cat "$work/log")" >&2
  fi
}
status_is() { [[ $status == "$1" ]]; }
says() { [[ $output == *"$1"* ]]; }
called() { [[ $(cat "$work/log") == *"$1"* ]]; }
calls() { [[ $(grep -c -- "$1" "$work/log") == "$2" ]]; }

case="everything installed"
new_machine
setup
expect "succeeds" status_is 0
expect "never calls apt" calls apt-get 0
expect "is silent" [ -z "$output" ]

case="root, two packages missing"
new_machine
MISSING="cmake libfmt-dev"
setup
expect "succeeds" status_is 0
expect "says first what it installs" says "will be installed: cmake libfmt-dev"
expect "installs exactly these" called "install --no-install-recommends cmake libfmt-dev"
expect "waits for the lock" called "DPkg::Lock::Timeout"
expect "does not update needlessly" calls " update" 0

case="no package lists yet"
new_machine
MISSING=cmake SIMULATE=100
setup
expect "succeeds" status_is 0
expect "updates once" calls " update" 1

case="stale lists: the first installation fails"
new_machine
MISSING=cmake INSTALL="100 0"
setup
expect "succeeds" status_is 0
expect "updates once" calls " update" 1

case="update fails with the lists at hand"
new_machine
MISSING=cmake INSTALL="100 0" UPDATE=100
setup
expect "still installs" status_is 0
expect "says so" says "trying with the lists at hand"

case="another apt holds the lists"
new_machine
MISSING=cmake SIMULATE=100 UPDATE=lock
setup
expect "succeeds" status_is 0
expect "waits and says so" says "waiting for another apt"
expect "updates again" calls " update" 2

case="nothing helps"
new_machine
MISSING=cmake SIMULATE=100 INSTALL=100 UPDATE=100
setup
expect "fails" status_is 1
expect "says what" says "could not install: cmake"

case="neither root nor sudo"
new_machine
MISSING="cmake g++" USER_ID=1000
setup
expect "stops" status_is 1
expect "gives the line to type" says "apt-get install -y --no-install-recommends cmake g++"
expect "never calls apt" calls apt-get 0

case="a user with sudo"
new_machine
stand_in sudo 'echo "sudo $*" >>"$LOG"; shift; exec "$@"'
MISSING=cmake USER_ID=1000
setup
expect "succeeds" status_is 0
expect "goes through sudo" called "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get"

case="sudo that asks for a password, no terminal"
new_machine
stand_in sudo 'exit 1'
MISSING=cmake USER_ID=1000
setup
expect "stops" status_is 1
expect "gives the line to type" says "apt-get install"

case="no AVX2"
new_machine
printf 'flags\t\t: fpu avx sse4_2 fma\n' >"$work/cpuinfo"
setup
expect "stops" status_is 1
expect "in one line" [ "$(printf '%s\n' "$output" | wc -l)" = 1 ]
expect "names it" says "lacks AVX2"

case="not Debian"
new_machine
rm "$work/bin/apt-get" "$work/bin/dpkg-query"
setup
expect "stops" status_is 1
expect "names the packages" says "libhwy-dev"

case="documentation"
status=- output=-
listed=$(awk '/^PACKAGES=\(/ { inside = 1; next } /^\)/ { inside = 0 } inside' "$root/scripts/setup.sh" |
  tr -s ' ' '\n' | sed '/^$/d' | sort)
documented=$(awk '/^## / { inside = /build and test/ } inside' "$root/docs/dependencies.md" |
  sed -n 's/^| `\([^`]*\)` |.*/\1/p' | sort)
expect "docs/dependencies.md lists the packages of setup.sh" [ "$listed" = "$documented" ]

case="jobs"
jobs=$("$root/scripts/jobs.sh")
expect "at least one, at most the cores" [ "$jobs" -ge 1 -a "$jobs" -le "$(nproc)" ]

if ((failures > 0)); then
  echo "$failures expectations failed" >&2
  exit 1
fi
echo "setup.sh does as it should in every situation"
