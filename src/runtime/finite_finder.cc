#include "runtime/finite_finder.h"

#include <fmt/format.h>

#include <cmath>

namespace moray {

namespace {

template <class T, class ToNumber>
NonFiniteCount count_elements(std::span<T> elements, const ToNumber& number) {
  NonFiniteCount count;
  for (size_t i = 0; i < elements.size(); ++i) {
    const auto value = number(elements[i]);
    if (std::isfinite(value)) continue;
    ++(std::isnan(value) ? count.nans : count.infinities);
    if (count.first < 0) count.first = static_cast<int64_t>(i);
  }
  return count;
}

}  // namespace

NonFiniteCount count_non_finite(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::f32:
      return count_elements(tensor.span<float>(), [](float x) { return x; });
    case DType::f64:
      return count_elements(tensor.span<double>(), [](double x) { return x; });
    case DType::bf16:
      return count_elements(tensor.span<bf16>(), [](bf16 x) { return to_float(x); });
    default:
      return {};
  }
}

void FiniteFinder::name(const Tensor& tensor, const std::string& name) {
  names_[tensor.raw()] = name;
}

void FiniteFinder::name_like(const Tensor& tensor, const Tensor& named) {
  names_[tensor.raw()] = names_.at(named.raw());
}

void FiniteFinder::examine(const char* op, int argument, const Tensor& tensor) {
  if (found() || !tensor.defined() || tensor.elements() == 0) return;
  // The name of what holds the number, else of the last tensor before it that has one: a layer's weight.
  const auto named = names_.find(tensor.raw());
  if (named != names_.end()) op_name_ = named->second;
  const NonFiniteCount count = count_non_finite(tensor);
  if (!count.any()) return;
  const int64_t width = tensor.rank() > 0 ? tensor.extent(-1) : 1;
  finding_ =
      fmt::format("{}: {}{}{}, tensor {} {}: {} NaN, {} infinite, the first at row {}, column {}", place_, op,
                  op_name_.empty() ? "" : " with ", op_name_, argument, tensor.shape().to_string(),
                  count.nans, count.infinities, count.first / width, count.first % width);
}

}  // namespace moray
