#include "tensor/panels.h"

#include <gtest/gtest.h>

#include <numeric>

namespace moray {
namespace {

template <class T>
void expect_elements_where_the_index_says(DType dtype, int64_t rows, int64_t columns) {
  std::vector<T> data(static_cast<size_t>(rows * columns));
  std::iota(data.begin(), data.end(), T{1});
  const std::vector<T> before = data;
  pack_panels(reinterpret_cast<std::byte*>(data.data()), rows, columns * int64_t{sizeof(T)}, dtype);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column)
      ASSERT_EQ(data[static_cast<size_t>(panel_index(row, column, columns, sizeof(T)))],
                before[static_cast<size_t>(row * columns + column)])
          << row << ", " << column;
}

TEST(Panels, HoldEveryElementWhereTheIndexSays) {
  expect_elements_where_the_index_says<uint32_t>(DType::f32, 32, 37);
  expect_elements_where_the_index_says<uint16_t>(DType::bf16, 48, 70);
  expect_elements_where_the_index_says<uint8_t>(DType::i8, 16, 12);
}

// As the header draws it.
TEST(Panels, LinesHoldAWordOfEachRow) {
  std::vector<uint32_t> data(16 * 3);
  for (uint32_t i = 0; i < data.size(); ++i) data[i] = i / 3 * 100 + i % 3;
  pack_panels(reinterpret_cast<std::byte*>(data.data()), 16, 12, DType::f32);
  EXPECT_EQ(data[0], 0u);
  EXPECT_EQ(data[1], 100u);
  EXPECT_EQ(data[15], 1500u);
  EXPECT_EQ(data[16], 1u);
}

TEST(Panels, RowsOf4BitsComeBack) {
  const int64_t rows = 32, bytes = int4_row_bytes(192);
  std::vector<uint8_t> data(static_cast<size_t>(rows * bytes)), row(static_cast<size_t>(bytes));
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 37 + i / 256);
  const std::vector<uint8_t> before = data;
  auto* panels = reinterpret_cast<std::byte*>(data.data());
  pack_panels(panels, rows, bytes, DType::u8);
  EXPECT_NE(data, before);
  for (int64_t r = 0; r < rows; ++r) {
    copy_int4_panel_row(panels, r, bytes, row.data());
    EXPECT_TRUE(std::equal(row.begin(), row.end(), before.begin() + r * bytes)) << r;
  }
}

TEST(Panels, AreOfWholeRowsAndWords) {
  EXPECT_TRUE(fits_panels({16, 4}, DType::f8_e4m3));
  EXPECT_TRUE(fits_panels({3, 32, 2}, DType::bf16));
  EXPECT_FALSE(fits_panels({16, 6}, DType::f8_e4m3));
  EXPECT_FALSE(fits_panels({24, 8}, DType::bf16));
  EXPECT_FALSE(fits_panels({16}, DType::f32));
  EXPECT_TRUE(fits_panels({16, int4_row_bytes(192)}, DType::u8));
  EXPECT_FALSE(fits_panels({16, int4_row_bytes(96)}, DType::u8));
}

TEST(PanelsDeathTest, AreNotReadAsRows) {
  Allocator allocator;
  const Tensor panels = Tensor::zeros(allocator, {32, 4}, DType::f32).lying_in(TensorLayout::panels);
  EXPECT_EQ(panels.rows(16, 32).layout(), TensorLayout::panels);
  EXPECT_DEATH((void)panels.data<float>(), "panels");
  EXPECT_DEATH((void)panels.rows(8, 24), "panels of 16");
}

}  // namespace
}  // namespace moray
