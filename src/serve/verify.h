// A model held against what a reference implementation computed from the same weights: fixed prompts, greedy
// tokens, log probabilities, chosen experts. scripts/write_reference.py writes such a file, docs/inference.md
// describes it.
#pragma once

#include "serve/engine.h"
#include "serve/sampler.h"

namespace moray {

struct ReferenceToken {
  int32_t id = 0;
  std::vector<TokenLogprob> top;  // the reference's likeliest; none where they were not recorded
};

struct ReferenceCase {
  std::string name;
  std::vector<int32_t> prompt;
  std::vector<ReferenceToken> tokens;  // chosen greedily
  std::vector<std::string> experts;    // experts_hash() of each MoE layer; empty where not recorded
};

struct Reference {
  std::string model, made_by;
  double tolerance = 0;  // of a log probability
  std::vector<ReferenceCase> cases;

  // Throws Error for a malformed file, and when its "config" names keys that `config_json` has otherwise.
  static Reference read(const fs::path& path, const std::string& config_json);
};

// FNV-1a (64 bits, 16 hex digits) over a layer's expert ids as little-endian int32: ascending for each token,
// the prompt's tokens, then the generated ones but the last.
std::string experts_hash(std::span<const int32_t> ids);

// Throws Error naming the case for ids outside the vocabulary and for cases longer than the model's
// positions.
void expect_fits(const ReferenceCase& reference, const deepseek::ModelConfig& config);

struct CaseReport {
  int64_t equal = 0, ties = 0, tokens = 0;  // a tie: another token, as likely within the tolerance
  double largest_difference = 0;            // of a log probability
  int64_t layers = 0, equal_layers = 0;     // MoE layers whose experts were compared
  std::string first_difference;             // in words; empty where all agrees

  bool agrees() const { return first_difference.empty(); }
};

// Feeds the reference's own tokens, so that one difference does not hide the rest. Throws Error as
// expect_fits does.
CaseReport verify_case(Engine& engine, const ReferenceCase& reference, double tolerance);

}  // namespace moray
