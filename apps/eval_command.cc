#include "apps/eval_command.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/output.h"
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
  const std::string text = read_file(path, kAnySize);
  if (text.empty()) fail("{}: is empty", path);
  const auto ids = std::make_shared<std::vector<int32_t>>(tokenizer.encode(text));
  return {[ids](int64_t begin, std::span<int32_t> out) {
            std::copy_n(ids->begin() + begin, out.size(), out.begin());
          },
          static_cast<int64_t>(ids->size()), text.size()};
}

// Tokens [begin, begin + window) of the stream, with the one before.
std::vector<int32_t> window_of(const Stream& stream, int64_t begin, int64_t window,
                               std::span<const int32_t> start) {
  const int64_t length = std::min(window, stream.tokens - begin);
  std::vector<int32_t> ids(static_cast<size_t>(length + 1), start.empty() ? 0 : start[0]);
  if (begin == 0)
    stream.read(0, std::span(ids).subspan(1));
  else
    stream.read(begin - 1, ids);
  return ids;
}

// The stream in windows, each a sequence of its own: as train/evaluate.h, on the engine.
Evaluation evaluate_served(Serving& serving, const Stream& stream, int64_t window, Progress& progress) {
  Engine& engine = serving.engine();
  const std::vector<int32_t> start = serving.prompt_start();
  Evaluation evaluation;
  while (evaluation.tokens < stream.tokens) {
    const std::vector<int32_t> ids = window_of(stream, evaluation.tokens, window, start);
    const auto length = static_cast<int64_t>(ids.size()) - 1;
    engine.truncate(0);
    const auto add = [&](int64_t first, const Tensor& states) {
      const auto targets =
          std::span(ids).subspan(static_cast<size_t>(first + 1), static_cast<size_t>(states.extent(0)));
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

// The states of a window's tokens, one for each.
std::vector<Tensor> states_of(Engine& engine, std::span<const int32_t> ids,
                              const Engine::PromptProgress& progress) {
  std::vector<Tensor> chunks;
  engine.truncate(0);
  engine.append_prompt(
      ids, [&](int64_t, const Tensor& states) { chunks.push_back(states); }, progress);
  return chunks;
}

void compare_window(Serving& model, Serving& original, std::span<const int32_t> ids, Divergence& sums,
                    Progress& progress) {
  constexpr int64_t kRows = 64;  // of logits at a time
  const std::span<const int32_t> inputs = ids.first(ids.size() - 1);
  const auto length = static_cast<int64_t>(inputs.size()), before = sums.tokens;
  const auto half_from = [&](int64_t first) {
    return [&progress, length, begin = before + first / 2](int64_t done) {
      if (done < length) progress.update(begin + done / 2);
      return true;
    };
  };
  const std::vector<Tensor> ours = states_of(model.engine(), inputs, half_from(0)),
                            theirs = states_of(original.engine(), inputs, half_from(length));
  size_t first = 0;
  for (size_t chunk = 0; chunk < ours.size(); ++chunk)
    for (int64_t begin = 0; begin < ours[chunk].extent(0); begin += kRows) {
      const int64_t end = std::min(begin + kRows, ours[chunk].extent(0));
      const auto count = static_cast<size_t>(end - begin);
      add_divergence(model.exec(), model.engine().logits(ours[chunk].rows(begin, end)),
                     original.engine().logits(theirs[chunk].rows(begin, end)), ids.subspan(first + 1, count),
                     sums);
      first += count;
    }
}

Divergence compare_served(Serving& model, Serving& original, const Stream& stream, int64_t window,
                          Progress& progress) {
  const std::vector<int32_t> start = model.prompt_start();
  Divergence sums;
  while (sums.tokens < stream.tokens) {
    compare_window(model, original, window_of(stream, sums.tokens, window, start), sums, progress);
    progress.update(sums.tokens);
  }
  return sums;
}

// Predictions of two models compare where an id is the same token to both.
void expect_same_tokens(const Tokenizer& ours, const Tokenizer& theirs, const EvalOptions& options) {
  if (ours.checksum() == theirs.checksum()) return;
  if (ours.vocabulary_size() != theirs.vocabulary_size())
    fail("{}: its tokenizer has {} tokens, that of {} {}", options.against, theirs.vocabulary_size(),
         options.serving.model, ours.vocabulary_size());
  for (int32_t id = 0; id < ours.vocabulary_size(); ++id)
    if (ours.token_bytes(id) != theirs.token_bytes(id))
      fail("{}: its tokenizer is another than that of {}: token {} is '{}', there '{}'", options.against,
           options.serving.model, id, theirs.token_bytes(id), ours.token_bytes(id));
}

// What a command evaluates: one model, the text in tokens, and windows of it. All but the weights is looked
// at before they are loaded.
class Task {
 public:
  explicit Task(const EvalOptions& options)
      : options_(options),
        serving(options.serving, options.sequence_length > 0 ? options.sequence_length : kDefaultWindow,
                [this](const Serving& unloaded) {
                  prepare(unloaded);
                  return size_t{0};
                }) {}

 private:
  static constexpr int64_t kDefaultWindow = 1024;

  void prepare(const Serving& unloaded) {
    const int64_t limit = unloaded.context_tokens();
    window = options_.sequence_length > 0 ? options_.sequence_length : std::min(kDefaultWindow, limit);
    if (window > limit) fail("--sequence-length is {}, the model has {} positions", window, limit);
    if (!options_.data.empty()) dataset_ = Dataset::open(options_.data);
    stream = dataset_ ? stream_of_dataset(*dataset_, unloaded.tokenizer(), options_.data)
                      : stream_of_text(options_.text, unloaded.tokenizer());
    if (stream.tokens == 0) fail("{}: has no held-out tokens", options_.data);
    if (!options_.against.empty())
      expect_same_tokens(unloaded.tokenizer(), Tokenizer::read(resolve_model_folder(options_.against)),
                         options_);
  }

  const EvalOptions& options_;
  std::optional<Dataset> dataset_;

 public:
  int64_t window = 0;
  Stream stream;
  Serving serving;  // last: it prepares the others
};

}  // namespace

nlohmann::ordered_json divergence_json(const Divergence& sums) {
  return {{"divergence", sums.mean()},
          {"greatest_divergence", sums.greatest_nats},
          {"same_top_share", sums.same_top_share()},
          {"perplexity", sums.perplexity()},
          {"original_perplexity", sums.original_perplexity()},
          {"tokens", sums.tokens}};
}

std::string divergence_text(const Divergence& sums) {
  return fmt::format(
      "KL divergence       {:.6f} nats a token (at most {:.4f})\nsame likeliest      {:.2f}% of tokens\n"
      "perplexity          {:.4f}, the original's {:.4f} ({:+.3f}%)\n{} tokens\n",
      sums.mean(), sums.greatest_nats, 100 * sums.same_top_share(), sums.perplexity(),
      sums.original_perplexity(), 100 * (sums.perplexity() / sums.original_perplexity() - 1), sums.tokens);
}

Divergence measure_divergence(const EvalOptions& options) {
  Task task(options);
  ServingOptions other = options.serving;
  other.model = options.against;
  other.needs_tokenizer = false;
  Serving original(other, task.window);
  if (original.served().model.config.vocab_size != task.serving.served().model.config.vocab_size)
    fail("{}: its vocabulary is not that of {}", options.against, options.serving.model);
  Progress progress("eval", task.stream.tokens, "tokens");
  const Divergence sums = compare_served(task.serving, original, task.stream, task.window, progress);
  if (!std::isfinite(sums.divergence_nats + sums.model_nats + sums.original_nats))
    fail("{} or {}: predictions are not finite", options.serving.model, options.against);
  return sums;
}

int run_eval(const EvalOptions& options) {
  if (options.data.empty() == options.text.empty()) fail("eval: give either --data DATASET or --text FILE");
  if (!options.against.empty()) {
    const Divergence sums = measure_divergence(options);
    if (options.json)
      print_json(divergence_json(sums));
    else
      fmt::print("{}", divergence_text(sums));
    return 0;
  }
  Task task(options);
  Evaluation evaluation;
  {
    Progress progress("eval", task.stream.tokens, "tokens");
    evaluation = evaluate_served(task.serving, task.stream, task.window, progress);
  }
  if (!std::isfinite(evaluation.nats))
    fail("{}: the model's predictions are not finite", options.serving.model);
  if (options.json) {
    const nlohmann::ordered_json json{{"loss", evaluation.loss()},
                                      {"perplexity", evaluation.perplexity()},
                                      {"bits_per_byte", evaluation.bits_per_byte(task.stream.bytes)},
                                      {"tokens", evaluation.tokens},
                                      {"bytes", task.stream.bytes},
                                      {"sequence_length", task.window}};
    print_json(json);
  } else {
    fmt::print(
        "loss           {:.6f} nats a token\nperplexity     {:.4f}\nbits per byte  {:.4f}\n{} tokens, {} "
        "bytes, windows of {}\n",
        evaluation.loss(), evaluation.perplexity(), evaluation.bits_per_byte(task.stream.bytes),
        evaluation.tokens, task.stream.bytes, task.window);
  }
  return 0;
}

}  // namespace moray
