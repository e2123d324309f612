// exp, log, sin, cos in double precision whose bits do not depend on the C library: initial weights, rotary
// tables and learning rates are part of "same bits on every machine". Relative error below 1e-14 in the
// ranges stated.
#pragma once

namespace moray::portable {

double exp(double x);  // any x; 0 below -745, infinity above 709.8
double log(double x);  // x > 0
double sin(double x);  // |x| < 1e9 (absolute error below 1e-14 for |x| < 1e6)
double cos(double x);  // likewise
// base > 0; exp(power · log(base)), relative error below 1e-13 for moderate results.
double pow(double base, double power);

}  // namespace moray::portable
