#include "base/math.h"

#include <cmath>
#include <limits>

namespace moray::portable {

namespace {
constexpr double kLn2High =
    6.93147180369123816490e-01;  // the top 32 bits of ln 2, so that n·kLn2High is exact
constexpr double kLn2Low = 1.90821492927058770002e-10;
// pi/2 in three pieces of 33 bits each, so that n·piece is exact for |n| < 2^20 (Cody and Waite).
constexpr double kPio2_1 = 1.57079632673412561417e+00;
constexpr double kPio2_2 = 6.07710050630396597660e-11;
constexpr double kPio2_3 = 2.02226624879595063154e-21;

// Taylor series on |r| <= pi/4; the first dropped term is below 1e-17.
double sin_series(double r) {
  const double z = r * r;
  double sum = 0;
  for (int k = 19; k >= 3; k -= 2) sum = (sum + 1) * -z / (static_cast<double>(k) * (k - 1));
  return r + r * sum;
}

double cos_series(double r) {
  const double z = r * r;
  double sum = 0;
  for (int k = 20; k >= 2; k -= 2) sum = (sum + 1) * -z / (static_cast<double>(k) * (k - 1));
  return 1 + sum;
}

struct Quadrant {
  double rest;
  int index;
};

Quadrant reduce(double x) {
  const double n = std::floor(x * 0.63661977236758134308 + 0.5);
  const double rest = ((x - n * kPio2_1) - n * kPio2_2) - n * kPio2_3;
  return {rest, static_cast<int>(static_cast<long long>(n) & 3)};
}
}  // namespace

double exp(double x) {
  if (std::isnan(x)) return x;
  if (x > 709.8) return std::numeric_limits<double>::infinity();
  if (x < -745) return 0;
  const double n = std::floor(x * 1.44269504088896340736 + 0.5);
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln2/2
  double sum = 1;
  for (int k = 14; k >= 1; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(n));
}

double log(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654752440) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);  // log m = 2 atanh(s), |s| < 0.172
  const double z = s * s;
  double sum = 0;
  for (int k = 23; k >= 3; k -= 2) sum = z * (1.0 / k + sum);
  const double log_m = 2 * s + 2 * s * sum;
  return exponent * kLn2High + (exponent * kLn2Low + log_m);
}

double sin(double x) {
  const Quadrant q = reduce(x);
  switch (q.index) {
    case 0:
      return sin_series(q.rest);
    case 1:
      return cos_series(q.rest);
    case 2:
      return -sin_series(q.rest);
    default:
      return -cos_series(q.rest);
  }
}

double cos(double x) {
  const Quadrant q = reduce(x);
  switch (q.index) {
    case 0:
      return cos_series(q.rest);
    case 1:
      return -sin_series(q.rest);
    case 2:
      return -cos_series(q.rest);
    default:
      return sin_series(q.rest);
  }
}

double pow(double base, double power) {
  return portable::exp(power * portable::log(base));
}

}  // namespace moray::portable
