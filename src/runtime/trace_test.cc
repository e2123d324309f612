#include "runtime/trace.h"

#include <gtest/gtest.h>

#include "runtime/kernels.h"

namespace moray {
namespace {

void double_all(Exec&, const Tensor& x, const Tensor& y) {
  for (int64_t i = 0; i < x.elements(); ++i) y.data<float>()[i] = 2 * x.data<float>()[i];
}

TEST(Trace, RecordsOpsWithTheirBytes) {
  Allocator allocator;
  ThreadPool pool(1);
  Tracer tracer;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  const Tensor x = exec.zeros({10, 10}), y = exec.zeros({10, 10});
  launch(exec, "double_all", 0, &double_all, x, y);  // no tracer: nothing is recorded
  exec.tracer = &tracer;
  launch(exec, "double_all", 100, &double_all, x, y);
  launch(exec, "double_all", 100, &double_all, x, y);
  ASSERT_EQ(tracer.events().size(), 2u);
  EXPECT_EQ(tracer.events()[0].bytes, 800);
  EXPECT_EQ(tracer.events()[0].flops, 100);
  EXPECT_NE(tracer.table().find("double_all"), std::string::npos);
  EXPECT_NE(tracer.chrome_json().find("\"name\": \"double_all\""), std::string::npos);
}

TEST(Trace, AnEmptySlotSaysWhatIsMissing) {
  Allocator allocator;
  ThreadPool pool(1);
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  void (*nothing)(Exec&, const Tensor&) = nullptr;
  try {
    launch(exec, "double_all", 0, nothing, Tensor());
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "[double_all] no kernel for device cpu");
  }
}

}  // namespace
}  // namespace moray
