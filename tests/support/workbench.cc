#include "tests/support/workbench.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/cpu/register.h"
#include "backend/register.h"
#include "base/random.h"

namespace moray {
namespace {

// Outputs that outlive the workbench they were made on.
struct Copied {
  std::string name;
  Shape shape;
  DType dtype;
  std::vector<std::byte> bytes;
  std::vector<double> values;
};

double element(const Tensor& tensor, size_t i) {
  switch (tensor.dtype()) {
    case DType::f32:
      return static_cast<double>(tensor.span<float>()[i]);
    case DType::f64:
      return tensor.span<double>()[i];
    case DType::bf16:
      return static_cast<double>(to_float(tensor.span<bf16>()[i]));
    case DType::i32:
      return tensor.span<int32_t>()[i];
    case DType::f8_e4m3:
      return static_cast<double>(to_float(tensor.span<e4m3>()[i]));
    case DType::f8_e5m2:
      return static_cast<double>(to_float(tensor.span<e5m2>()[i]));
    case DType::u8:
      return tensor.span<uint8_t>()[i];
    case DType::i8:
      return tensor.span<int8_t>()[i];
  }
  return 0;
}

std::vector<Copied> run(const OpCase& op, Device device, DType dtype, int threads, bool rounded = false) {
  Workbench bench(device, dtype, threads, rounded);
  std::vector<Copied> copies;
  for (const auto& [name, tensor] : op(bench)) {
    Copied& copy = copies.emplace_back(Copied{name, tensor.shape(), tensor.dtype(), {}, {}});
    copy.bytes.assign(tensor.raw(), tensor.raw() + tensor.bytes());
    for (size_t i = 0; i < static_cast<size_t>(tensor.elements()); ++i)
      copy.values.push_back(element(tensor, i));
  }
  return copies;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

void expect_equal_bits(const std::vector<Copied>& got, const std::vector<Copied>& expected, const char* who) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t n = 0; n < got.size(); ++n) {
    if (got[n].bytes == expected[n].bytes) continue;
    size_t i = 0;
    while (std::memcmp(&got[n].values[i], &expected[n].values[i], sizeof(double)) == 0) ++i;
    ADD_FAILURE() << who << ": " << got[n].name << " " << got[n].shape.to_string()
                  << " differs first at element " << i << ": " << got[n].values[i] << ", not "
                  << expected[n].values[i];
  }
}

}  // namespace

Workbench::Workbench(Device device, DType dtype, int threads, bool rounded)
    : pool_(threads),
      exec{.device = device, .pool = &pool_, .allocator = &allocator_, .dtype = dtype},
      rounded_(rounded || dtype == DType::bf16) {
  register_backends();
}

Tensor Workbench::draw(std::string_view name, Shape shape, DType dtype, bool rounded, double scale,
                       double mean) {
  const Tensor tensor = Tensor::empty(allocator_, shape, dtype);
  Random random(1, name_stream(name));
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const float drawn = static_cast<float>(mean + scale * random.normal());
    const float value = rounded ? to_float(to_bf16(drawn)) : drawn;
    if (dtype == DType::f64)
      tensor.data<double>()[i] = static_cast<double>(value);
    else if (dtype == DType::bf16)
      tensor.data<bf16>()[i] = to_bf16(value);
    else
      tensor.data<float>()[i] = value;
  }
  return tensor;
}

Tensor Workbench::normal(std::string_view name, Shape shape, double scale, double mean) {
  return draw(name, shape, exec.dtype, rounded_, scale, mean);
}
Tensor Workbench::wide(std::string_view name, Shape shape, double scale, double mean) {
  return draw(name, shape, exec.wide_dtype(), false, scale, mean);
}

Tensor Workbench::normal_bf16(std::string_view name, Shape shape, double scale) {
  const Tensor tensor = Tensor::empty(allocator_, shape, DType::bf16);
  Random random(1, name_stream(name));
  for (bf16& value : tensor.span<bf16>()) value = to_bf16(static_cast<float>(scale * random.normal()));
  return tensor;
}

Tensor Workbench::ints(Shape shape, const std::vector<int32_t>& values) {
  const Tensor tensor = exec.empty_i32(shape);
  MORAY_CHECK(static_cast<size_t>(tensor.elements()) == values.size());
  std::copy(values.begin(), values.end(), tensor.data<int32_t>());
  return tensor;
}

Tensor Workbench::ints_below(std::string_view name, Shape shape, int32_t bound) {
  const Tensor tensor = exec.empty_i32(shape);
  Random random(1, name_stream(name));
  for (int32_t& value : tensor.span<int32_t>())
    value = static_cast<int32_t>(random.below(static_cast<uint64_t>(bound)));
  return tensor;
}

namespace {

void expect_close_to(const std::vector<Copied>& expected, double tolerance, const OpCase& op, DType dtype) {
  for (Device device : {Device::reference, Device::cpu}) {
    const std::vector<Copied> got = run(op, device, dtype, 2);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t n = 0; n < got.size(); ++n) {
      const double allowed = got[n].dtype == DType::i32 ? 0 : tolerance;
      EXPECT_LE(relative_error(got[n].values, expected[n].values), allowed)
          << device_name(device) << " in " << dtype_name(dtype) << ": " << got[n].name << " "
          << got[n].shape.to_string();
    }
  }
}

void expect_same_on_threads(const OpCase& op, DType dtype) {
  const std::vector<Copied> one = run(op, Device::cpu, dtype, 1);
  expect_equal_bits(run(op, Device::cpu, dtype, 2), one, "cpu, 2 threads");
  expect_equal_bits(run(op, Device::cpu, dtype, 4), one, "cpu, 4 threads");
}

}  // namespace

void expect_close(double tolerance, const OpCase& op) {
  expect_close_to(run(op, Device::reference, DType::f64, 1), tolerance, op, DType::f32);
}
void expect_close_bf16(double tolerance, const OpCase& op) {
  expect_close_to(run(op, Device::reference, DType::f64, 1, /*rounded=*/true), tolerance, op, DType::bf16);
}

void expect_same_bits_on_threads(const OpCase& op) {
  expect_same_on_threads(op, DType::f32);
}
void expect_same_bf16_bits_on_threads(const OpCase& op) {
  expect_same_on_threads(op, DType::bf16);
}

void expect_reference_bits(const OpCase& op) {
  expect_equal_bits(run(op, Device::cpu, DType::f32, 2), run(op, Device::reference, DType::f32, 1), "cpu");
}
void expect_reference_bf16_bits(const OpCase& op) {
  expect_equal_bits(run(op, Device::cpu, DType::bf16, 2), run(op, Device::reference, DType::bf16, 1),
                    "cpu in bf16");
}

void on_every_instruction_set(const std::function<void()>& test) {
  const std::string before = cpu::simd_name();
  bool all = true;
  for (const char* simd : {"avx2", "avx512"}) {
    if (!cpu::force_simd(simd)) {
      all = false;
      continue;
    }
    SCOPED_TRACE(simd);
    test();
  }
  cpu::force_simd(before.c_str());
  if (!all) GTEST_SKIP() << "this machine has no AVX-512; with AVX2 the test was run";
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.elements(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

}  // namespace moray
