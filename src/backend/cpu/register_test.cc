#include "backend/cpu/register.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"

namespace moray {
namespace {

TEST(SimdTest, NamesWhatWasForced) {
  ASSERT_TRUE(cpu::force_simd("avx2"));
  EXPECT_STREQ(cpu::simd_name(), "avx2");
  const bool has_avx512 = cpu::force_simd("avx512");
  EXPECT_STREQ(cpu::simd_name(), has_avx512 ? "avx512" : "avx2");
  EXPECT_FALSE(cpu::force_simd("neon"));
}

TEST(SimdTest, TheEnvironmentRestrictsIt) {
  ::setenv("MORAY_SIMD", "avx2", 1);
  cpu::register_kernels();
  EXPECT_STREQ(cpu::simd_name(), "avx2");
  ::setenv("MORAY_SIMD", "sse", 1);
  EXPECT_THROW(cpu::register_kernels(), Error);
  ::unsetenv("MORAY_SIMD");
  cpu::force_simd("avx512");
}

}  // namespace
}  // namespace moray
