// Running the same op on the same numbers on every device, and comparing what comes out.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/exec.h"

namespace moray {

// A device with memory and threads of its own. Its inputs are functions of their names: the same numbers on
// every device, drawn in f32 and widened where the device computes in f64. With bf16 activations normal() is
// rounded to bf16 and wide() is not; `rounded` gives the same numbers to a device that computes in f64.
class Workbench {
 private:
  Allocator allocator_;
  ThreadPool pool_;

 public:
  Workbench(Device device, DType dtype, int threads = 1, bool rounded = false);

  Tensor normal(std::string_view name, Shape shape, double scale = 1, double mean = 0);
  Tensor wide(std::string_view name, Shape shape, double scale = 1, double mean = 0);  // of exec.wide_dtype()
  Tensor normal_bf16(std::string_view name, Shape shape, double scale = 1);  // bf16 on every device alike
  Tensor ints(Shape shape, const std::vector<int32_t>& values);
  Tensor ints_below(std::string_view name, Shape shape, int32_t bound);
  Tensor empty(Shape shape) { return exec.empty(shape); }
  Tensor empty_wide(Shape shape) { return exec.empty_wide(shape); }
  Tensor zeros(Shape shape) { return exec.zeros(shape); }

  Exec exec;

 private:
  Tensor draw(std::string_view name, Shape shape, DType dtype, bool rounded, double scale, double mean);

  bool rounded_ = false;
};

using NamedOutputs = std::vector<std::pair<std::string, Tensor>>;
using OpCase = std::function<NamedOutputs(Workbench&)>;

// Every device's f32 outputs against the f64 reference: ‖a − b‖ ≤ tolerance · ‖b‖ for each output, i32 ones
// equal.
void expect_close(double tolerance, const OpCase& op);

// The cpu's f32 outputs with 1, 2 and 4 threads equal each other to the bit; so the order of sums is fixed.
void expect_same_bits_on_threads(const OpCase& op);

// And they equal the f32 reference's: for ops whose every rounding is specified.
void expect_reference_bits(const OpCase& op);

// The same three with bf16 activations: against the f64 reference of the same rounded inputs, of the cpu on
// 1, 2 and 4 threads, and of the cpu against the reference's bits.
void expect_close_bf16(double tolerance, const OpCase& op);
void expect_same_bf16_bits_on_threads(const OpCase& op);
void expect_reference_bf16_bits(const OpCase& op);

// test() with AVX2's kernels, then with AVX-512's. A machine without those skips the test after the first, so
// that it is seen.
void on_every_instruction_set(const std::function<void()>& test);

// Σ a·b, the loss whose gradient with respect to a is b. f64.
double dot(const Tensor& a, const Tensor& b);

}  // namespace moray
