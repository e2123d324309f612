// moray numerics: a laboratory of FP8 arithmetic.
#pragma once

#include <string>

#include "numerics/compare.h"
#include "numerics/products.h"

namespace moray {

struct NumericsProductsOptions {
  numerics::ProductStudy study;
  bool round = false;  // --round: to nearest even, instead of truncation
  std::string html;    // --html FILE: a page with charts; empty: none
  int threads = 0;
  bool json = false;
};
int run_numerics_products(const NumericsProductsOptions&);

struct NumericsTensorsOptions {
  std::string path;  // model folder, checkpoint, run, or a safetensors file
  int worst = 8;
  bool all = false;
  int threads = 0;
  bool json = false;
};
int run_numerics_tensors(const NumericsTensorsOptions&);

struct NumericsQuantizationOptions {
  std::string run;
  bool json = false;
};
int run_numerics_quantization(const NumericsQuantizationOptions&);

struct NumericsCompareOptions {
  std::string baseline, run, floor;  // run folders; floor may be empty
  numerics::ComparisonOptions comparison;
  std::string html;        // a page with charts; empty: none
  bool gradients = false;  // also of one batch at the baseline's newest checkpoint, layer by layer
  int64_t samples = 8;     // of that batch
  int threads = 0;
  bool json = false;
};
int run_numerics_compare(const NumericsCompareOptions&);

}  // namespace moray
