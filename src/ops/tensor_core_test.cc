#include "ops/tensor_core.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <vector>

#include "base/files.h"
#include "ops/tensor_core_cases.h"

namespace moray {
namespace {

// The sum of products a·1.
float sum_of(const TensorCore& core, const std::vector<float>& terms) {
  const std::vector<float> ones(terms.size(), 1.0f);
  TensorCoreSum sum(core);
  sum.add(terms.data(), ones.data(), static_cast<int64_t>(terms.size()));
  return sum.value();
}

TEST(TensorCore, CutsTermsAtTheLargestExponent) {
  const float ulp = 0x1p-13f;  // of 1.0 with 14 bits
  EXPECT_EQ(sum_of({14, false, 0}, {1, ulp}), 1 + ulp);
  EXPECT_EQ(sum_of({14, false, 0}, {1, 0.75f * ulp}), 1);
  EXPECT_EQ(sum_of({14, false, 0}, {1, -0.75f * ulp}), 1);  // toward zero, each term by itself
  EXPECT_EQ(sum_of({14, true, 0}, {1, 0.75f * ulp}), 1 + ulp);
  EXPECT_EQ(sum_of({14, true, 0}, {1, 0.5f * ulp}), 1);  // a tie, to even
  EXPECT_EQ(sum_of({14, true, 0}, {1, 1.5f * ulp}), 1 + 2 * ulp);
  EXPECT_EQ(sum_of({13, false, 0}, {1, ulp}), 1);
  EXPECT_EQ(sum_of({14, false, 0}, {1, 0.5f * ulp, 0.5f * ulp}), 1);  // lost one by one
}

TEST(TensorCore, ExponentsAreThoseBeforeNormalisation) {
  TensorCoreSum sum({14, false, 0});
  // 9 counts as 1.5·1.5 · 2², so the quantum is 2⁻¹¹ and the second product stays; the sum then keeps 2⁻¹⁰.
  const float a[] = {3, -0x1p-6f}, b[] = {3, 0x1p-5f};
  sum.add(a, b, 2);
  EXPECT_EQ(sum.value(), 9 - 0x1p-10f);
  // A subnormal number has the exponent of the smallest normal one, here 2⁻⁶: with 2⁻⁶ · 2⁻⁶ in its product
  // the quantum is 2⁻²⁵, and 2⁻²⁶ is lost, though it would not be beside the product's own 2⁻¹³.
  const float c[] = {0x1p-7f, 0x1p-14f}, d[] = {0x1p-6f, 0x1p-12f};
  TensorCoreSum subnormal({14, false, 0}), normal({14, false, 0}, -14, -14);
  subnormal.add(c, d, 2);
  normal.add(c, d, 2);
  EXPECT_EQ(subnormal.value(), 0x1p-13f);
  EXPECT_EQ(normal.value(), 0x1p-13f + 0x1p-26f);
}

TEST(TensorCore, CutsTheSumThatGrew) {
  // 32 terms of 1 + 2⁻¹³ add up exactly to 32 + 2⁻⁸, which 14 bits (a quantum of 2⁻⁸ at 32) hold; one more
  // ulp is lost.
  std::vector<float> terms(32, 1 + 0x1p-13f);
  EXPECT_EQ(sum_of({14, false, 0}, terms), 32 + 0x1p-8f);
  terms[5] += 0x1p-13f;
  EXPECT_EQ(sum_of({14, false, 0}, terms), 32 + 0x1p-8f);
}

TEST(TensorCore, AddsInGroupsOf32) {
  // Beside 2¹⁴ one group's ones vanish one by one; with 2¹⁴ in the group before, the same.
  std::vector<float> terms(33, 1.0f);
  terms[0] = 0x1p14f;
  EXPECT_EQ(sum_of({14, false, 0}, terms), 0x1p14f);
  // The big one last: 32 ones are a group and add up to 32 before it comes, which is then kept.
  std::vector<float> late(33, 1.0f);
  late[32] = 0x1p14f;
  EXPECT_EQ(sum_of({14, false, 0}, late), 0x1p14f + 32);
}

TEST(TensorCore, PromotionKeepsWhatTheAccumulatorWouldLose) {
  const std::vector<float> ones(1 << 15, 1.0f);
  EXPECT_EQ(sum_of({10, false, 0}, ones), 0x1p10f);  // from 2¹⁰ on, ones are lost
  EXPECT_EQ(sum_of({10, false, 128}, ones), 0x1p15f);
  EXPECT_EQ(sum_of({10, false, 4096}, ones), 8 * 0x1p10f);
}

TEST(TensorCore, EnoughBitsAreExact) {
  EXPECT_EQ(sum_of({24, false, 0}, {448 * 448, -0x1p-5f, 3}), 448 * 448 + 3 - 0x1p-5f);
  EXPECT_EQ(sum_of({14, false, 0}, {}), 0);
  EXPECT_EQ(sum_of({14, false, 0}, {0, -0.0f}), 0);
  EXPECT_EQ(sum_of({14, false, 0}, {5, -5}), 0);
}

// What an H100's wgmma gave for the first case of each kind (written by backend/cuda/tensor_core_check.cu):
// the sums at (row, row mod 8).
TEST(TensorCore, AddsAsAnH100Does) {
  std::istringstream golden(
      read_file(std::filesystem::path(MORAY_SOURCE_DIR) / "tests/golden/tensor_core/h100.txt"));
  for (size_t n = 0; n < tensor_core_cases::kinds().size(); ++n) {
    const auto& kind = tensor_core_cases::kinds()[n];
    const auto drawn = tensor_core_cases::draw(n, 0);
    const tensor_core_cases::ModelSums model(kind, drawn);
    for (int row = 0; row < tensor_core_cases::kRows; ++row) {
      uint32_t bits = 0;
      ASSERT_TRUE(golden >> std::hex >> bits);
      EXPECT_EQ(model.at(row, row % tensor_core_cases::kColumns), std::bit_cast<float>(bits))
          << kind.name << ", row " << row;
    }
  }
}

}  // namespace
}  // namespace moray
