#include "tensor/tensor.h"

#include <gtest/gtest.h>

namespace moray {
namespace {

TEST(Tensor, RowsShareStorage) {
  Allocator allocator;
  Tensor x = Tensor::zeros(allocator, {4, 3}, DType::f32);
  Tensor slice = x.rows(1, 3);
  slice.data<float>()[0] = 5;
  EXPECT_EQ(x.data<float>()[3], 5);
  EXPECT_EQ(slice.shape(), (Shape{2, 3}));
  EXPECT_EQ(x.row(1).shape(), (Shape{3}));
  EXPECT_EQ(x.reshape({2, 6}).row(0).data<float>()[3], 5);
}

TEST(Allocator, HandsOutFreedMemoryAgain) {
  Allocator allocator;
  for (int step = 0; step < 10; ++step) {
    Tensor a = Tensor::empty(allocator, {1000}, DType::f32);
    Tensor b = Tensor::empty(allocator, {1 << 20}, DType::f32);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 64, 0u);
  }
  EXPECT_EQ(allocator.system_allocations(), 2u);
  EXPECT_EQ(allocator.live_bytes(), 0u);
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(to_float(to_bf16(1.0f)), 1.0f);
  EXPECT_EQ(to_float(to_bf16(1.00390625f)), 1.0f);        // a tie goes to the even neighbour below
  EXPECT_EQ(to_float(to_bf16(1.01171875f)), 1.015625f);   // a tie goes to the even neighbour above
  EXPECT_EQ(to_float(to_bf16(1.00390637f)), 1.0078125f);  // just above the tie
  EXPECT_TRUE(to_float(to_bf16(__builtin_nanf(""))) != to_float(to_bf16(__builtin_nanf(""))));
}

}  // namespace
}  // namespace moray
