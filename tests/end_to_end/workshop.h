// What the tests train: a tokenizer, a dataset and a recipe, tiny, made once by the command itself.
#pragma once

#include <map>

#include "command.h"

namespace moray::test {

// The recipe's steps, and how many samples of how many tokens one has.
inline constexpr int kSteps = 12, kBatch = 8, kSequence = 32;

class Workshop {
 public:
  static const Workshop& get();

  const fs::path& corpus() const { return corpus_; }  // a folder of text files, some of it not ASCII
  const fs::path& tokenizer() const { return tokenizer_; }
  const fs::path& dataset() const { return dataset_; }
  const fs::path& recipe() const { return recipe_; }

  // `moray train RECIPE --json --run FOLDER`, with "--set" before each of `settings`.
  Invocation train(const fs::path& run, const std::vector<std::string>& settings = {}) const;
  // A finished run of the recipe as it is, for tests that only read one.
  const fs::path& trained() const { return trained_; }

 private:
  Workshop();

  ScratchFolder scratch_;
  fs::path corpus_, tokenizer_, dataset_, recipe_, trained_;
};

// The value of a key in the one JSON object that `out` must be, as JSON text; a failure when there is none.
std::string json_value(const std::string& out, const std::string& key);

// The bytes of all safetensors of a run's newest checkpoint, by path inside it.
std::map<std::string, std::string> weights_of(const fs::path& run);

// metrics.jsonl without what is measured with a clock or of the process; and expert_load.jsonl as it is.
std::vector<std::string> metrics_of(const fs::path& run);

// All files under a folder with their content, to see that nothing was lost or changed.
std::map<std::string, std::string> content_of(const fs::path& folder);

// A copy of a folder, to be damaged.
void copy_folder(const fs::path& from, const fs::path& to);
void flip_byte(const fs::path& file, int64_t position);  // from the end when negative

// The command ended with a non-zero status of its own, nothing on stdout, and one line on stderr beginning
// with "moray: " that holds all fragments. Lines before it (what a run tells of itself) are let through when
// `after_info` is set.
void expect_refusal(const Outcome&, const std::vector<std::string>& fragments, bool after_info = false);

}  // namespace moray::test
