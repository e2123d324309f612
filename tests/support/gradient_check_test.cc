#include "tests/support/gradient_check.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace moray {
namespace {

// loss = Σ sin(x_i) · x_{i+1} (cyclic)
class Sines {
 public:
  explicit Sines(int64_t size)
      : x(Tensor::empty(allocator_, {size}, DType::f64)),
        gradient(Tensor::empty(allocator_, {size}, DType::f64)) {
    Random random(1, 2);
    for (double& value : x.span<double>()) value = random.normal();
    const std::span<double> v = x.span<double>(), g = gradient.span<double>();
    for (size_t i = 0; i < v.size(); ++i)
      g[i] = std::cos(v[i]) * v[(i + 1) % v.size()] + std::sin(v[(i + v.size() - 1) % v.size()]);
  }

  double loss() const {
    const std::span<double> v = x.span<double>();
    double sum = 0;
    for (size_t i = 0; i < v.size(); ++i) sum += std::sin(v[i]) * v[(i + 1) % v.size()];
    return sum;
  }
  GradientError check() const {
    return check_gradients(std::vector<NamedGradient>{{"x", x, gradient}}, [this] { return loss(); }).front();
  }

 private:
  Allocator allocator_;

 public:
  Tensor x, gradient;
};

TEST(GradientCheck, AcceptsRightGradients) {
  EXPECT_LT(Sines(7).check().error, 1e-9);
  EXPECT_LT(Sines(1000).check().error, 1e-9);
  EXPECT_EQ(Sines(1000).check().checked, 48);
}

TEST(GradientCheck, PutsValuesBack) {
  const Sines sines(1000);
  const double before = sines.loss();
  sines.check();
  EXPECT_EQ(sines.loss(), before);
}

TEST(GradientCheck, FindsOneWrongElement) {
  const Sines sines(7);
  sines.gradient.data<double>()[3] *= 1.0001;
  EXPECT_GT(sines.check().error, 1e-6);
}

// Too small a share of a large tensor to be among the elements looked at: the directions see it.
TEST(GradientCheck, FindsOneMissingElementOfALargeTensor) {
  const Sines sines(100000);
  sines.gradient.data<double>()[77777] = 0;
  EXPECT_GT(sines.check().error, 1e-5);
}

TEST(GradientCheck, FindsAWrongScaleSignAndNaN) {
  for (double factor : {0.999, -1.0, std::nan("")}) {
    const Sines sines(100);
    for (double& g : sines.gradient.span<double>()) g *= factor;
    EXPECT_FALSE(sines.check().error < 1e-4) << factor;
  }
}

TEST(GradientCheck, FindsAGradientWhereThereIsNone) {
  Sines sines(7);
  const GradientError e =
      check_gradients(std::vector<NamedGradient>{{"x", sines.x, sines.gradient}}, [] { return 1.0; }).front();
  EXPECT_GT(e.error, 1e-3);
  sines.gradient.fill_zero();
  EXPECT_EQ(check_gradients(std::vector<NamedGradient>{{"x", sines.x, sines.gradient}}, [] { return 1.0; })[0]
                .error,
            0);
}

}  // namespace
}  // namespace moray
