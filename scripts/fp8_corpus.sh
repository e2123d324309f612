#!/usr/bin/env bash
# Prints the folder of the FP8 experiment's corpus: Python, Perl, CMake, C and C++ of Debian packages that are there
# wherever moray is built, copied to build/fp8/corpus; 50 MB, 13M tokens of a vocabulary of 4096. The same package
# versions give the same files.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(cmake-data libc6-dev libpython3.11-minimal libpython3.11-stdlib libstdc++-12-dev linux-libc-dev perl-modules-5.36)
folder=$PWD/build/fp8

# Tables of code points are numbers, not text.
source_files() {
  dpkg-query -L "${PACKAGES[@]}" | grep -E '\.(cmake|rst|txt|py|pm|pl|pod|h|tcc)$|/include/c\+\+/12/' | grep -v /unicore/ |
    LC_ALL=C sort -u
}

if [[ ! -f $folder/corpus.complete ]]; then
  dpkg-query -W -f '${db:Status-Status}\n' "${PACKAGES[@]}" >/dev/null ||
    { echo "fp8_corpus: install what is missing with: apt-get install ${PACKAGES[*]}" >&2; exit 1; }
  rm -rf "$folder/corpus"
  mkdir -p "$folder/corpus"
  source_files | while IFS= read -r file; do
    [[ -f $file && ! -L $file ]] || continue
    mkdir -p "$folder/corpus/$(dirname "$file")"
    cp -- "$file" "$folder/corpus/$file"
  done
  dpkg-query -W -f '${Package} ${Version}\n' "${PACKAGES[@]}" >"$folder/corpus.complete"
fi
sed 's/^/corpus: /' "$folder/corpus.complete" >&2
echo "$folder/corpus"
