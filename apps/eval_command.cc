#include "apps/eval_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/model_argument.h"
#include "data/dataset.h"
#include "report/progress.h"
#include "train/evaluate.h"

namespace moray {

namespace {

struct Stream {
  TokenReader read;
  int64_t tokens = 0;
  uint64_t bytes = 0;
};

Stream stream_of_dataset(const Dataset& dataset, const Tokenizer& tokenizer, const std::string& path) {
  if (dataset.tokenizer().checksum() != tokenizer.checksum())
    fail("{}: was built with another tokenizer than the model's", path);
  return {[&dataset](int64_t begin, std::span<int32_t> out) {
            dataset.held_out_window(static_cast<uint64_t>(begin), out);
          },
          static_cast<int64_t>(dataset.held_out_tokens()), dataset.held_out_bytes()};
}

Stream stream_of_text(const std::string& path, const Tokenizer& tokenizer) {
  const std::string text = read_file(path);
  if (text.empty()) fail("{}: is empty", path);
  const auto ids = std::make_shared<std::vector<int32_t>>(tokenizer.encode(text));
  return {[ids](int64_t begin, std::span<int32_t> out) {
            std::copy_n(ids->begin() + begin, out.size(), out.begin());
          },
          static_cast<int64_t>(ids->size()), text.size()};
}

}  // namespace

int run_eval(const EvalOptions& options) {
  if (options.data.empty() == options.text.empty()) fail("eval: give either --data DATASET or --text FILE");
  Workplace workplace(options.threads);
  const LoadedModel loaded = load_model_argument(workplace.exec, options.model, options.weights);
  constexpr int64_t kDefaultWindow = 1024;
  const int64_t limit = loaded.model.config.max_position_embeddings;
  const int64_t window =
      options.sequence_length > 0 ? options.sequence_length : std::min(kDefaultWindow, limit);
  if (window > limit) fail("--sequence-length is {}, the model has {} positions", window, limit);
  std::optional<Dataset> dataset;
  if (!options.data.empty()) dataset = Dataset::open(options.data);
  const Stream stream = dataset ? stream_of_dataset(*dataset, loaded.tokenizer, options.data)
                                : stream_of_text(options.text, loaded.tokenizer);
  if (stream.tokens == 0) fail("{}: has no held-out tokens", options.data);

  Progress progress("eval", stream.tokens, "tokens");
  const RopeTable rope = deepseek::make_rope_table(workplace.exec, loaded.model.config, window);
  const Evaluation evaluation =
      evaluate(workplace.exec, loaded.model, rope, stream.read, stream.tokens, window,
               loaded.tokenizer.required_id(kEndOfSentence), [&](int64_t done) { progress.update(done); });
  if (options.json) {
    const nlohmann::ordered_json json{{"loss", evaluation.loss()},
                                      {"perplexity", evaluation.perplexity()},
                                      {"bits_per_byte", evaluation.bits_per_byte(stream.bytes)},
                                      {"tokens", evaluation.tokens},
                                      {"bytes", stream.bytes},
                                      {"sequence_length", window}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print(
        "loss           {:.6f} nats a token\nperplexity     {:.4f}\nbits per byte  {:.4f}\n{} tokens, {} "
        "bytes, windows of {}\n",
        evaluation.loss(), evaluation.perplexity(), evaluation.bits_per_byte(stream.bytes), evaluation.tokens,
        stream.bytes, window);
  }
  return 0;
}

}  // namespace moray
