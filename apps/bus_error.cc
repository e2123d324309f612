#include "apps/bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>

namespace moray {

namespace {

// Within a signal handler: system calls and memory of our own, no more.
constexpr size_t kLineBytes = 4096 + 128;
char line[kLineBytes];  // of /proc/self/maps: "BEGIN-END rights offset device inode   PATH"

uintptr_t read_hex(const char*& at) {
  uintptr_t value = 0;
  for (;; ++at) {
    if (*at >= '0' && *at <= '9')
      value = value * 16 + static_cast<uintptr_t>(*at - '0');
    else if (*at >= 'a' && *at <= 'f')
      value = value * 16 + static_cast<uintptr_t>(*at - 'a' + 10);
    else
      return value;
  }
}

bool line_holds(uintptr_t address) {
  const char* at = line;
  const uintptr_t begin = read_hex(at);
  return *at == '-' && begin <= address && address < read_hex(++at);
}

// The path of the file that is mapped at `address`, within `line`; nullptr where there is none.
const char* mapped_path(uintptr_t address) {
  const int maps = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return nullptr;
  char buffer[1024];
  size_t length = 0;
  for (ssize_t got = 0; (got = ::read(maps, buffer, sizeof(buffer))) > 0;)
    for (ssize_t i = 0; i < got; ++i) {
      if (buffer[i] != '\n') {
        const auto byte = static_cast<unsigned char>(buffer[i]);
        if (length + 1 < kLineBytes) line[length++] = byte < 0x20 || byte == 0x7f ? ' ' : buffer[i];
        continue;
      }
      line[length] = '\0';
      length = 0;
      if (line_holds(address)) return std::strchr(line, '/');
    }
  return nullptr;
}

void write_error(const char* text) {
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, std::strlen(text));
}

void on_bus_error(int, siginfo_t* info, void*) {
  static std::atomic_flag told = ATOMIC_FLAG_INIT;
  while (told.test_and_set()) ::pause();  // another thread tells it and ends the process
  const char* path =
      info->si_code == BUS_ADRERR ? mapped_path(reinterpret_cast<uintptr_t>(info->si_addr)) : nullptr;
  if (path == nullptr) {
    std::signal(SIGBUS, SIG_DFL);  // what failed is done again, and ends the process with a core
    told.clear();
    return;
  }
  write_error("moray: ");
  write_error(path);
  write_error(": has become shorter or cannot be read any more while it was in use\n");
  ::_exit(1);
}

}  // namespace

void report_bus_errors() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace moray
