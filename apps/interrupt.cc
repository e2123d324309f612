#include "apps/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "base/error.h"

namespace moray {

namespace {
std::atomic<bool> was_interrupted = false;
// The handler writes a byte, so that a Ctrl-C just before poll() ends its waiting too. Never closed.
int pipe_ends[2] = {-1, -1};

void on_interrupt(int) {
  const int error = errno;
  was_interrupted = true;
  [[maybe_unused]] const ssize_t written = ::write(pipe_ends[1], "", 1);
  errno = error;
}
}  // namespace

InterruptGuard::InterruptGuard() {
  if (pipe_ends[0] < 0 && ::pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) != 0)
    fail("cannot make a pipe: {}", std::strerror(errno));
  take_interrupt();
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, &before_);
}

InterruptGuard::~InterruptGuard() {
  ::sigaction(SIGINT, &before_, nullptr);
}

bool interrupted() {
  return was_interrupted;
}

bool take_interrupt() {
  char bytes[64];
  while (::read(pipe_ends[0], bytes, sizeof bytes) > 0) {
  }
  return was_interrupted.exchange(false);
}

bool wait_for_input(int file) {
  pollfd files[] = {{file, POLLIN, 0}, {pipe_ends[0], POLLIN, 0}};
  while (::poll(files, std::size(files), -1) < 0)
    if (errno != EINTR) fail("cannot wait for input: {}", std::strerror(errno));
  return files[1].revents == 0;
}

}  // namespace moray
