// The command `moray` as its users meet it: a process with arguments, an environment, and what it leaves
// behind.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "base/test_help.h"

namespace moray::test {

struct Outcome {
  int status = 0;  // as a shell shows it: the exit status, or 128 + the signal that ended the process
  std::string out, err;
};

struct Invocation {
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment = {};  // beside PATH, HOME and TMPDIR
  std::string input = {};
  uint64_t file_size_limit = 0;  // bytes a file may reach (RLIMIT_FSIZE); 0: no limit
  std::string output_path = {};  // stdout goes there instead of into Outcome::out
  std::vector<int> closed = {};  // standard streams that it starts without
};

// `moray` running in a folder of its own for what it prints; killed when it goes out of scope.
class Process {
 public:
  explicit Process(const Invocation&);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const;
  bool ended();                      // by now
  bool ends_within(double seconds);  // waits for it
  Outcome wait();
  std::string err_so_far() const;

 private:
  ScratchFolder files_;
  pid_t pid_ = -1;
  int status_ = -1;  // of waitpid, once the process ended
};

Outcome moray(const std::vector<std::string>& arguments);
Outcome moray(const Invocation&);

void sleep_seconds(double seconds);
double seconds_now();  // of a steady clock

std::vector<std::string> lines_of(const std::string& text);

}  // namespace moray::test
