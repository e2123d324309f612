// moray bench decode and prefill: one sequence on random weights, against memory's and the multipliers'
// limit.
#pragma once

#include <string>
#include <vector>

namespace moray {

struct BenchServeOptions {
  std::string recipe;                    // a recipe: its [model]
  std::vector<std::string> assignments;  // KEY=VALUE
  std::string format = "bf16";           // of the weights: f32, bf16, fp8, 8bit or 4bit
  int64_t prompt_tokens = 512;
  int64_t tokens = 24;                    // to decode
  std::vector<int64_t> contexts = {128};  // tokens before the first decoded one
  int threads = 0;
  bool table = false;  // where the time goes, by op family
  bool json = false;
};
int run_bench_decode(const BenchServeOptions&);
int run_bench_prefill(const BenchServeOptions&);

// A folder of random weights.
struct BenchMakeModelOptions {
  std::string shape;  // a recipe, config.json or model folder
  std::string output;
  std::vector<std::string> assignments;  // KEY=VALUE, of a recipe
  std::string format = "bf16";
  int threads = 0;
};
int run_bench_make_model(const BenchMakeModelOptions&);

// From a folder in the page cache to the first token.
struct BenchLoadOptions {
  std::string model;
  bool packed = false;  // also from the packed file, which is written
  int rounds = 3;
  int threads = 0;
  bool json = false;
};
int run_bench_load(const BenchLoadOptions&);

}  // namespace moray
