#include "base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace moray {
namespace {

TEST(Log, WhatCannotBeToldStopsNothing) {
  const int kept = ::dup(STDERR_FILENO);
  for (const auto& [path, flags] : {std::pair{"/dev/null", O_RDONLY}, std::pair{"/dev/full", O_WRONLY}}) {
    const int broken = ::open(path, flags | O_CLOEXEC);
    ASSERT_GE(broken, 0);
    ::dup2(broken, STDERR_FILENO);
    ::close(broken);
    EXPECT_NO_THROW(log::plain("\r{}", 1));
    EXPECT_NO_THROW(log::info("{}", 2));
    EXPECT_NO_THROW(log::warning("{}", 3));
    ::dup2(kept, STDERR_FILENO);
  }
  ::close(kept);
}

}  // namespace
}  // namespace moray
