#include "tests/support/gradient_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"

namespace moray {
namespace {

// The derivative of f at 0 from f(±h), f(±2h), f(±3h).
double six_point_derivative(double h, const std::function<double(double)>& f) {
  const double near = f(h) - f(-h), middle = f(2 * h) - f(-2 * h), far = f(3 * h) - f(-3 * h);
  return (45 * near - 9 * middle + far) / (60 * h);
}

struct Comparison {
  double difference = 0, numeric = 0, analytic = 0;  // sums of squares
  int64_t count = 0;

  void add(double g, double g_numeric) {
    difference += (g - g_numeric) * (g - g_numeric);
    numeric += g_numeric * g_numeric;
    analytic += g * g;
    ++count;
  }
  // `noise`: what rounding of the loss leaves in one derivative.
  double error(double noise) const {
    const double floor = noise * std::sqrt(static_cast<double>(count));
    if (std::sqrt(numeric) <= floor && std::sqrt(analytic) <= floor) return 0;
    return std::sqrt(difference) / std::max(std::sqrt(numeric), floor);
  }
};

class TensorCheck {
 public:
  TensorCheck(const NamedGradient& tensor, const std::function<double()>& loss,
              const GradientCheckOptions& options)
      : name_(tensor.name),
        values_(tensor.value.span<double>()),
        gradient_(tensor.gradient.span<double>()),
        loss_(loss),
        options_(options),
        random_(options.seed, name_stream(tensor.name)) {
    MORAY_CHECK(tensor.value.shape() == tensor.gradient.shape(), "{}: value {}, gradient {}", tensor.name,
                tensor.value.shape().to_string(), tensor.gradient.shape().to_string());
    const double squares = std::inner_product(values_.begin(), values_.end(), values_.begin(), 0.0);
    const double scale = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, values_.size())));
    step_ = options.step * (scale > 0 ? scale : 1);
    noise_ = 64 * std::numeric_limits<double>::epsilon() * std::abs(loss()) / step_;
  }

  GradientError run() {
    Comparison elements, directions;
    for (size_t i : chosen_elements()) elements.add(gradient_[i], element_derivative(i));
    if (static_cast<int64_t>(values_.size()) > options_.max_elements)
      for (int n = 0; n < options_.directions; ++n) add_direction(directions);
    return {.name = name_,
            .error = worse(elements.error(noise_), directions.error(noise_)),
            .norm = std::sqrt(elements.numeric + directions.numeric),
            .checked = elements.count};
  }

 private:
  // Not std::max, which may drop a NaN.
  static double worse(double a, double b) { return a >= b ? a : (b >= a ? b : std::nan("")); }

  std::vector<size_t> chosen_elements() {
    std::vector<size_t> order(values_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const size_t limit = static_cast<size_t>(options_.max_elements);
    if (order.size() <= limit) return order;
    const auto half = order.begin() + static_cast<ptrdiff_t>(limit / 2);
    std::partial_sort(order.begin(), half, order.end(), [&](size_t a, size_t b) {
      return std::pair(-std::abs(gradient_[a]), a) < std::pair(-std::abs(gradient_[b]), b);
    });
    for (size_t i = limit / 2; i < limit; ++i)
      std::swap(order[i], order[i + static_cast<size_t>(random_.below(order.size() - i))]);
    order.resize(limit);
    return order;
  }

  double element_derivative(size_t i) {
    const double saved = values_[i];
    const double derivative = six_point_derivative(step_, [&](double offset) {
      values_[i] = saved + offset;
      return loss_();
    });
    values_[i] = saved;
    return derivative;
  }

  // Along a random unit vector with entries ±1/√n.
  void add_direction(Comparison& comparison) {
    const std::vector<double> saved(values_.begin(), values_.end());
    std::vector<double> direction(values_.size());
    const double length = 1 / std::sqrt(static_cast<double>(values_.size()));
    for (double& d : direction) d = (random_.next() & 1) != 0 ? length : -length;
    const double derivative = six_point_derivative(step_, [&](double offset) {
      for (size_t i = 0; i < saved.size(); ++i) values_[i] = saved[i] + offset * direction[i];
      return loss_();
    });
    std::copy(saved.begin(), saved.end(), values_.begin());
    comparison.add(std::inner_product(direction.begin(), direction.end(), gradient_.begin(), 0.0),
                   derivative);
  }

  std::string name_;
  std::span<double> values_, gradient_;
  const std::function<double()>& loss_;
  const GradientCheckOptions& options_;
  Random random_;
  double step_ = 0, noise_ = 0;
};

}  // namespace

std::vector<GradientError> check_gradients(std::span<const NamedGradient> gradients,
                                           const std::function<double()>& loss,
                                           const GradientCheckOptions& options) {
  std::vector<GradientError> errors;
  for (const NamedGradient& tensor : gradients) errors.push_back(TensorCheck(tensor, loss, options).run());
  return errors;
}

void expect_gradients(const std::vector<NamedGradient>& gradients, const std::function<double()>& loss,
                      double tolerance, const GradientCheckOptions& options) {
  for (const GradientError& e : check_gradients(gradients, loss, options)) {
    EXPECT_LE(e.error, tolerance) << e.name << " (norm " << e.norm << ", " << e.checked << " elements)";
    EXPECT_GT(e.norm, 0) << e.name;
  }
}

}  // namespace moray
