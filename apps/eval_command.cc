#include "apps/eval_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

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

// The stream in windows, each a sequence of its own: as train/evaluate.h, on the engine.
Evaluation evaluate_served(Serving& serving, const Stream& stream, int64_t window, Progress& progress) {
  Engine& engine = serving.engine();
  const std::vector<int32_t> start = serving.prompt_start();
  Evaluation evaluation;
  std::vector<int32_t> ids;
  while (evaluation.tokens < stream.tokens) {
    const int64_t begin = evaluation.tokens, length = std::min(window, stream.tokens - begin);
    ids.assign(static_cast<size_t>(length + 1), start.empty() ? 0 : start[0]);
    if (begin == 0)
      stream.read(0, std::span(ids).subspan(1));
    else
      stream.read(begin - 1, ids);
    engine.truncate(0);
    const auto add = [&](int64_t first, const Tensor& states) {
      const auto targets = std::span(ids).subspan(static_cast<size_t>(first + 1), static_cast<size_t>(states.extent(0)));
      for (float logprob : engine.logprobs(states, targets)) evaluation.nats += -logprob;
    };
    engine.append_prompt(std::span(ids).first(static_cast<size_t>(length)), add, [&](int64_t done) {
      if (done < length) progress.update(evaluation.tokens + done);
      return true;
    });
    evaluation.tokens += length;
    progress.update(evaluation.tokens);
  }
  return evaluation;
}

}  // namespace

int run_eval(const EvalOptions& options) {
  if (options.data.empty() == options.text.empty()) fail("eval: give either --data DATASET or --text FILE");
  constexpr int64_t kDefaultWindow = 1024;
  Serving serving(options.serving, options.sequence_length > 0 ? options.sequence_length : kDefaultWindow);
  const int64_t limit = serving.engine().context_tokens();
  const int64_t window =
      options.sequence_length > 0 ? options.sequence_length : std::min(kDefaultWindow, limit);
  if (window > limit) fail("--sequence-length is {}, the model has {} positions", window, limit);
  std::optional<Dataset> dataset;
  if (!options.data.empty()) dataset = Dataset::open(options.data);
  const Stream stream = dataset ? stream_of_dataset(*dataset, serving.tokenizer(), options.data)
                                : stream_of_text(options.text, serving.tokenizer());
  if (stream.tokens == 0) fail("{}: has no held-out tokens", options.data);

  Progress progress("eval", stream.tokens, "tokens");
  const Evaluation evaluation = evaluate_served(serving, stream, window, progress);
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
