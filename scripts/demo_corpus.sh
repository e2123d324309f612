#!/usr/bin/env bash
# Prints the folder of the demo's corpus: the .py files of Debian's libpython3.11-minimal and libpython3.11-stdlib,
# copied to build/demo/corpus. The same package version gives the same files, whatever else is installed beside them.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(libpython3.11-minimal libpython3.11-stdlib)
LIBRARY=usr/lib/python3.11
demo=$PWD/build/demo

say() { printf 'demo: %s\n' "$*" >&2; }

# The packages' files, as paths under the library's folder.
installed_files() {
  local status
  status=$(dpkg-query -W -f '${db:Status-Status}\n' "${PACKAGES[@]}" 2>/dev/null) || return 1
  [[ $status == $'installed\ninstalled' ]] || return 1
  dpkg-query -L "${PACKAGES[@]}" | sed -n "s|^/$LIBRARY/\(.*\.py\)$|\1|p"
}

# Where the packages are not installed: unpacked below build/demo/package, without root. A machine without package
# lists gets lists of its own below the build folder.
download_packages() {
  local apt=$demo/apt
  local get=(apt-get -qq -o APT::Sandbox::User=root)  # the build folder may be closed to apt's own user
  local own=(-o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache")
  say "the Python standard library is not installed; downloading Debian's ${PACKAGES[*]} into build/demo"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
  (
    cd "$apt/packages"
    "${get[@]}" download "${PACKAGES[@]}" >&2 ||
      { "${get[@]}" "${own[@]}" update >&2 && "${get[@]}" "${own[@]}" download "${PACKAGES[@]}" >&2; }
  ) || { say "the download failed; give a corpus of your own with: make demo TEXT=path"; exit 1; }
  for package in "$apt"/packages/*.deb; do dpkg-deb -x "$package" "$demo/package"; done
  rm -rf "$apt/lists" "$apt/cache"
}

if [[ ! -f $demo/corpus.complete ]]; then
  rm -rf "$demo/corpus"
  mkdir -p "$demo/corpus"
  if files=$(installed_files); then
    source=/$LIBRARY
    version=$(dpkg-query -W -f '${Version}' libpython3.11-stdlib)
  else
    [[ -d $demo/package/$LIBRARY ]] || download_packages
    source=$demo/package/$LIBRARY
    version=$(dpkg-deb -f "$demo"/apt/packages/libpython3.11-stdlib_*.deb Version)
    files=$(cd "$source" && find . -name '*.py' | sed 's|^\./||')
  fi
  # Regular files alone: two names in the library are links.
  printf '%s\n' "$files" | LC_ALL=C sort | while IFS= read -r file; do
    [[ -f $source/$file && ! -L $source/$file ]] || continue
    mkdir -p "$demo/corpus/$(dirname "$file")"
    cp -- "$source/$file" "$demo/corpus/$file"
  done
  echo "$version" >"$demo/corpus.complete"
fi
say "corpus: Python's standard library, Debian package version $(<"$demo/corpus.complete")"
echo "$demo/corpus"
