#include "train/run.h"

#include <fmt/ranges.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <ctime>

#include "base/config.h"
#include "base/log.h"
#include "data/dataset.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "report/report.h"
#include "report/tensorboard.h"
#include "train/checkpoint_writer.h"
#include "train/evaluate.h"
#include "train/model_folder.h"
#include "train/run_folder.h"
#include "train/train_state.h"

namespace moray {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int64_t peak_memory_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// While alive, the first SIGINT or SIGTERM sets a flag instead of ending the process; the second ends it.
class StopRequest {
 public:
  StopRequest() {
    flag = 0;
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      if (flag == 0) {
        flag = 1;
      } else {
        ::signal(signal, SIG_DFL);
        ::raise(signal);
      }
    };
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &action, &old_interrupt_);
    ::sigaction(SIGTERM, &action, &old_terminate_);
  }
  ~StopRequest() {
    ::sigaction(SIGINT, &old_interrupt_, nullptr);
    ::sigaction(SIGTERM, &old_terminate_, nullptr);
  }
  bool made() const { return flag != 0; }

 private:
  static inline volatile std::sig_atomic_t flag = 0;
  struct sigaction old_interrupt_ {
  }, old_terminate_{};
};

void expect_fitting_dataset(const Dataset& dataset, const Recipe& recipe) {
  const DatasetManifest& manifest = dataset.manifest();
  const std::string& folder = recipe.data.dataset;
  if (manifest.vocabulary_size > recipe.model.vocab_size)
    fail(
        "{0}: its tokenizer has {1} tokens, model.vocab_size is {2}; give the model as many with "
        "--set model.vocab_size={1}",
        folder, manifest.vocabulary_size, recipe.model.vocab_size);
  if (manifest.fim_rate != recipe.data.fim_rate)
    fail("{}: was built with fim_rate {}, the recipe says {}", folder, manifest.fim_rate,
         recipe.data.fim_rate);
  if (manifest.split_rate != recipe.data.newline_split_rate)
    fail("{}: was built with newline_split_rate {}, the recipe says {}", folder, manifest.split_rate,
         recipe.data.newline_split_rate);
}

// Traces a few steps of a run, once memory is warm, and then writes and shows what it saw.
class StepTracer {
 public:
  StepTracer(Exec& exec, const RunOptions& options) : exec_(exec), options_(options) {}
  ~StepTracer() { exec_.tracer = nullptr; }

  void before_step() {
    if (options_.trace.empty()) return;
    constexpr int64_t kWarmUpSteps = 2;
    if (steps_ == kWarmUpSteps) exec_.tracer = &tracer_;
    if (steps_ == kWarmUpSteps + options_.trace_steps) {
      exec_.tracer = nullptr;
      write_file_atomically(options_.trace, tracer_.chrome_json());
      log::info("{} steps traced, in {} (opens in Perfetto)\n{}", options_.trace_steps,
                options_.trace.string(), tracer_.table());
    }
    ++steps_;
  }

 private:
  Exec& exec_;
  const RunOptions& options_;
  Tracer tracer_;
  int64_t steps_ = 0;
};

// Everything of one run that lives as long as it.
class Run {
 public:
  Run(Exec& exec, Config& config, const RunOptions& options)
      : recipe_(Recipe::from_config(config)),
        recipe_toml_(config.resolved()),
        options_(options),
        dataset_(open_dataset()),
        lock_(options_.folder),
        trainer_(exec, recipe_.model, recipe_.train),
        source_([this](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
          const int64_t length = recipe_.train.sequence_length;
          dataset_.sample(n, length, static_cast<int64_t>(tokens.size()) - length, tokens, starts);
        }),
        checkpoint_writer_(checkpoints(), recipe_.run.keep_last) {}

  RunSummary go() {
    prepare_folder();
    total_steps_ = trainer_.total_steps();
    const int64_t start_step = trainer_.counters().step;
    MetricsWriter metrics(options_.folder, start_step, total_steps_);
    if (start_step > 0) recall_losses();
    TensorBoardWriter tensorboard(options_.folder, start_step);
    StopRequest stop;
    announce();
    Progress progress("train", recipe_.train.tokens, "tokens", trainer_.counters().tokens);
    StepTracer tracer(trainer_.exec(), options_);
    while (!trainer_.finished() && !stop.made()) {
      tracer.before_step();
      const StepMetrics row = step();
      metrics.write(row);
      tensorboard.write(row.step, static_cast<double>(std::time(nullptr)), tensorboard_scalars(row));
      progress.update(std::min(row.tokens, recipe_.train.tokens), progress_detail(row));
      expect_progress(row);
      if (checkpoint_due()) {
        metrics.sync();
        save();
      }
    }
    metrics.sync();
    if (saved_step_ != trainer_.counters().step) save();
    if (const fs::path written = checkpoint_writer_.wait(); !written.empty()) summary_.checkpoint = written;
    summary_.interrupted = !trainer_.finished();
    summary_.steps = trainer_.counters().step;
    summary_.tokens = trainer_.counters().tokens;
    if (trainer_.counters().step > 0) write_report({options_.folder}, options_.folder / "report.html");
    return summary_;
  }

 private:
  Dataset open_dataset() const {
    if (recipe_.data.dataset.empty()) fail("data.dataset is not set: the folder made by `moray data build`");
    Dataset dataset = Dataset::open(recipe_.data.dataset, recipe_.train.seed);
    expect_fitting_dataset(dataset, recipe_);
    return dataset;
  }

  fs::path checkpoints() const { return options_.folder / "checkpoints"; }

  void prepare_folder() {
    if (!options_.resume &&
        (!list_checkpoints(checkpoints()).empty() || fs::exists(options_.folder / "metrics.jsonl")))
      fail("{}: already holds a run; go on with --resume, or choose another folder with --run",
           options_.folder.string());
    std::optional<Checkpoint> newest;
    if (options_.resume) newest = open_newest_checkpoint(checkpoints());
    if (newest) {
      expect_same_tokenizer(newest->path() / "model");
      const std::vector<std::string> changed = changed_since();
      restore_training(trainer_, *newest);
      saved_step_ = trainer_.counters().step;
      summary_.checkpoint = newest->path();
      log::info("resuming from {}", newest->path().string());
      if (!changed.empty()) log::info("changed since: {}", fmt::join(changed, ", "));
    } else if (!options_.init.empty()) {
      expect_same_tokenizer(options_.init);
      read_weights(SafetensorsFolder(options_.init), trainer_.model());
      trainer_.begin_with_weights();
      log::info("weights from {}", options_.init.string());
    }
    write_file_atomically(options_.folder / "recipe.toml", recipe_toml_);
  }

  // The keys that the recipe on disk has otherwise. Throws Error for the precision's: a run whose steps were
  // computed in two would pass for either.
  std::vector<std::string> changed_since() const {
    const fs::path path = options_.folder / "recipe.toml";
    if (!fs::exists(path)) return {};
    const std::vector<std::string> changed = changed_keys(read_file(path), recipe_toml_);
    for (const std::string& key : changed)
      if (key.starts_with("train.precision") || key.starts_with("train.fp8.") || key == "train.adamw.moments")
        fail("{}: the run began with another {}; start a new run, from its weights with --init",
             path.string(), key);
    return changed;
  }

  // Weights mean something with the tokenizer they were trained with alone. A folder may come without one.
  void expect_same_tokenizer(const fs::path& model_folder) const {
    const fs::path path = model_folder / "tokenizer.json";
    if (fs::exists(path) && Tokenizer::read(path).checksum() != dataset_.tokenizer().checksum())
      fail("{}: another tokenizer than that of the dataset {}", path.string(), recipe_.data.dataset);
  }

  // The losses of the steps before a resume, in case none is left to do.
  void recall_losses() {
    for (const StepMetrics& row : read_metrics(options_.folder / "metrics.jsonl")) {
      summary_.loss = row.loss;
      if (row.validation_loss) summary_.validation_loss = row.validation_loss;
    }
  }

  // Tells what is about to happen, with an estimate of the time from one micro-batch whose result is thrown
  // away.
  void announce() {
    const deepseek::ParameterCounts counts = deepseek::count_parameters(recipe_.model);
    log::info("model: {} parameters ({} in the MTP modules), {} active a token",
              short_count(static_cast<double>(counts.total + counts.mtp)),
              short_count(static_cast<double>(counts.mtp)), short_count(static_cast<double>(counts.active)));
    log::info("data: {} tokens in {}, {} held out", short_count(static_cast<double>(dataset_.train_tokens())),
              recipe_.data.dataset, short_count(static_cast<double>(dataset_.held_out_tokens())));
    const int64_t left = recipe_.train.tokens - trainer_.counters().tokens;
    if (left <= 0) {
      log::info("nothing left to do: {} tokens trained", trainer_.counters().tokens);
      return;
    }
    const double seconds = trainer_.seconds_per_token(source_) * static_cast<double>(left);
    log::info("plan: {} steps to {} tokens, about {} on {} threads", total_steps_ - trainer_.counters().step,
              short_count(static_cast<double>(recipe_.train.tokens)), short_duration(seconds),
              trainer_.exec().pool->threads());
  }

  StepMetrics step() {
    const Clock::time_point start = Clock::now();
    QuantizationCounts counts;
    const bool counted = quantization_counted(trainer_.counters().step + 1);
    const StepResult result = trainer_.step(source_, counted ? &counts : nullptr);
    const double seconds = seconds_since(start);
    const Counters& counters = trainer_.counters();
    if (result.skipped)
      log::warning(
          "step {}: loss {} or gradient norm {} is not finite; the step was skipped ({} so far). First: {}",
          counters.step, result.loss, result.grad_norm, counters.skipped_steps, result.non_finite);
    StepMetrics row;
    row.step = counters.step;
    row.tokens = counters.tokens;
    row.loss = result.loss;
    row.mtp_loss = result.mtp_loss;
    row.balance_loss = result.balance_loss;
    for (const std::vector<int64_t>& load : result.expert_load) row.add_moe_layer(load);
    row.grad_norm = result.grad_norm;
    row.learning_rate = result.learning_rate;
    row.tokens_per_second = static_cast<double>(result.batch_tokens) / seconds;
    row.peak_memory_bytes = peak_memory_bytes();
    row.skipped_steps = counters.skipped_steps;
    if (counted)
      for (size_t i = 0; i < kTensorClasses; ++i)
        if (const CodeCounts& codes = counts.classes[i]; codes.elements > 0)
          row.quantization.push_back({tensor_class_name(static_cast<TensorClass>(i)), codes.elements,
                                      codes.underflow_share(), codes.saturated_share()});
    const int64_t interval = recipe_.run.validation_interval_steps;
    if (trainer_.finished() || (interval > 0 && counters.step % interval == 0))
      row.validation_loss = validate();
    summary_.loss = row.loss;
    if (row.validation_loss) summary_.validation_loss = row.validation_loss;
    return row;
  }

  void expect_progress(const StepMetrics& row) {
    const int64_t bad = trainer_.counters().bad_in_a_row;
    if (bad >= recipe_.train.max_bad_steps)
      fail("step {}: loss {} and gradient norm {}; {} steps in a row were not finite", row.step, row.loss,
           row.grad_norm, bad);
  }

  std::optional<double> validate() {
    const auto held_out = static_cast<int64_t>(dataset_.held_out_tokens());
    const std::vector<TokenWindow> windows =
        spread_windows(held_out, recipe_.run.validation_tokens, recipe_.train.sequence_length);
    if (windows.empty()) return std::nullopt;
    const TokenReader read = [this](int64_t begin, std::span<int32_t> out) {
      dataset_.held_out_window(static_cast<uint64_t>(begin), out);
    };
    Exec exec = trainer_.compute_exec();
    return evaluate(exec, trainer_.compute_model(), trainer_.rope(), read, windows,
                    dataset_.tokenizer().required_id(kEndOfSentence))
        .loss();
  }

  bool quantization_counted(int64_t step) const {
    const int64_t interval = recipe_.run.quantization_interval_steps;
    return recipe_.train.precision.fp8() && interval > 0 && step % interval == 0;
  }

  bool checkpoint_due() {
    const int64_t interval = recipe_.run.checkpoint_interval_steps;
    return interval > 0 && trainer_.counters().step % interval == 0;
  }

  void save() {
    const fs::path data = recipe_.data.dataset;
    const Tokenizer& tokenizer = dataset_.tokenizer();
    const SaveOptions options{recipe_.run.model_dtype,
                              recipe_.run.model_scales,
                              recipe_toml_,
                              {data / "tokenizer.json", data / "tokenizer_config.json"},
                              tokenizer.required_id(kBeginOfSentence),
                              tokenizer.required_id(kEndOfSentence)};
    saved_step_ = trainer_.counters().step;
    checkpoint_writer_.save(*trainer_.exec().allocator, saved_step_, training_content(trainer_, options));
  }

  static std::string progress_detail(const StepMetrics& row) {
    double worst = 0;
    for (double balance : row.balance) worst = std::max(worst, balance);
    return fmt::format("step {}  loss {:.3f}  balance {:.2f}", row.step, row.loss, worst);
  }

  Recipe recipe_;
  std::string recipe_toml_;
  RunOptions options_;
  Dataset dataset_;
  RunFolderLock lock_;
  Trainer trainer_;
  SampleSource source_;
  CheckpointWriter checkpoint_writer_;
  RunSummary summary_;
  int64_t total_steps_ = 0;
  int64_t saved_step_ = -1;
};

}  // namespace

RunSummary run_training(Exec& exec, Config recipe, const RunOptions& options) {
  return Run(exec, recipe, options).go();
}

}  // namespace moray
