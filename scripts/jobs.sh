#!/usr/bin/env bash
# Prints how many compilers this machine can run at once: min(cores, free memory in GB), at least 1.
set -euo pipefail

free_gb=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
# A container may be allowed less than the machine has.
if [[ -r /sys/fs/cgroup/memory.max && $(</sys/fs/cgroup/memory.max) != max ]]; then
  left_gb=$((($(</sys/fs/cgroup/memory.max) - $(</sys/fs/cgroup/memory.current)) >> 30))
  ((left_gb < free_gb)) && free_gb=$left_gb
fi
jobs=$(nproc)
((free_gb < jobs)) && jobs=$free_gb
((jobs < 1)) && jobs=1
echo "$jobs"
