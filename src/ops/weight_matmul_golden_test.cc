// Products with integer weights against values computed in exact fractions (tests/golden/int_rows).
#include <gtest/gtest.h>

#include <bit>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "ops/weight_matmul.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

using Json = nlohmann::json;

// Rows of the bits of FP32 numbers.
Tensor floats_of(Workbench& bench, const Json& rows) {
  const Tensor tensor =
      bench.empty({static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())});
  float* at = tensor.data<float>();
  for (const Json& row : rows)
    for (const Json& bits : row) *at++ = std::bit_cast<float>(bits.get<uint32_t>());
  return tensor;
}

Tensor bytes_of(Workbench& bench, const Json& rows, DType dtype) {
  const Tensor tensor =
      Tensor::empty(*bench.exec.allocator,
                    {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())}, dtype);
  std::byte* at = tensor.raw();
  for (const Json& row : rows)
    for (const Json& byte : row) *at++ = static_cast<std::byte>(byte.get<int>());
  return tensor;
}

void expect_golden_products() {
  const Json golden =
      Json::parse(read_file(fs::path(MORAY_SOURCE_DIR) / "tests/golden/int_rows/products.json"));
  for (const Device device : {Device::reference, Device::cpu})
    for (const char* format : {"8bit", "4bit"}) {
      Workbench bench(device, DType::f32, 2);
      const Json& expected = golden[format];
      const DType dtype = std::string(format) == "8bit" ? DType::i8 : DType::u8;
      const StoredWeight w{bytes_of(bench, expected["bytes"], dtype), floats_of(bench, expected["scales"]),
                           0};
      const Tensor x = floats_of(bench, golden["x"]), y = bench.empty({x.extent(0), w.outputs()});
      ASSERT_EQ(w.inputs(), golden["columns"].get<int64_t>());
      weight_matmul(bench.exec, x, w, y);
      const Tensor exact = floats_of(bench, expected["y"]);
      for (int64_t i = 0; i < y.elements(); ++i)
        EXPECT_EQ(std::bit_cast<uint32_t>(y.data<float>()[i]),
                  std::bit_cast<uint32_t>(exact.data<float>()[i]))
            << format << " on " << device_name(device) << ", " << i;
    }
}

TEST(WeightMatmulGolden, IntegerProducts) {
  on_every_instruction_set(expect_golden_products);
}

}  // namespace
}  // namespace moray
