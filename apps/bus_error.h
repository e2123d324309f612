// Files that are cut, or whose disk fails, while they are mapped: the system sends SIGBUS.
#pragma once

namespace moray {

// From now on such an end is told in one line that names the file, and the status is 1, as for other errors.
void report_bus_errors();

}  // namespace moray
