// The training step and everything it changes: weights, moments, average, balance bias, counters. No files
// here.
#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "models/deepseek/compute_copy.h"
#include "models/deepseek/training.h"
#include "train/recipe.h"

namespace moray {

// Fills sample n of the run: `tokens` (sequence_length + 1 + MTP depths) and, per position, where its packed
// document begins in the sample.
using SampleSource =
    std::function<void(uint64_t n, std::span<int32_t> tokens, std::span<int32_t> document_starts)>;

// Where a run is. With the recipe's seed it is all that data order and random numbers depend on.
struct Counters {
  int64_t step = 0;           // optimizer steps, skipped ones included
  int64_t tokens = 0;         // trained on
  int64_t samples = 0;        // the next sample to draw
  int64_t skipped_steps = 0;  // loss or norm not finite
  int64_t bad_in_a_row = 0;
};

struct StepResult {
  double loss = 0;               // nats a token, of the main model
  std::vector<double> mtp_loss;  // one a depth
  double balance_loss = 0;       // Σ over layers of the mean over samples, without α
  double grad_norm = 0;
  double learning_rate = 0;
  bool skipped = false;
  std::string non_finite;  // of a skipped step: where the first number that is not finite arose
  int64_t batch_tokens = 0;
  std::vector<std::vector<int64_t>> expert_load;  // one a MoE layer
};

class Trainer {
 public:
  // Weights are freshly initialised from the recipe's seed.
  Trainer(Exec&, const deepseek::ModelConfig&, const TrainConfig&);
  ~Trainer();

  // One optimizer step on the next samples. A step whose loss or gradient norm is not finite changes nothing
  // but the counters; whoever runs steps must stop after max_bad_steps of them in a row. With `counts`
  // everything the step quantizes is counted, the new weights last; no bit changes.
  StepResult step(const SampleSource&, QuantizationCounts* counts = nullptr);

  bool finished() const { return counters_.tokens >= config_.tokens; }
  int64_t total_steps() const;  // of the whole run, by the batch schedule

  // Measured on one micro-batch of the next samples, whose result is thrown away: for an estimate before a
  // run starts.
  double seconds_per_token(const SampleSource&);

  Exec& exec() { return exec_; }
  deepseek::Model& model() { return model_; }  // the FP32 master weights
  // What the forward pass runs with, for evaluation: the weights of the recipe's precision as of the last
  // step, and an Exec with its activations. Whoever writes into model() calls refresh_compute_model().
  const deepseek::Model& compute_model() const { return compute_model_; }
  Exec compute_exec() const;
  void refresh_compute_model(QuantizationCounts* counts = nullptr);
  Optimizer& optimizer() { return optimizer_; }
  const RopeTable& rope() const { return rope_; }
  const TrainConfig& config() const { return config_; }
  Counters& counters() { return counters_; }

  // The moving average, complete up to the last step; nullptr without one.
  deepseek::Model* average();
  // After somebody wrote the weights that training begins with into model(): all that follows from them.
  void begin_with_weights();
  // Starts the average (or all of it anew) from the weights as they are.
  void restart_average();

 private:
  int64_t batch_size_at(int64_t tokens) const;
  deepseek::LossScales loss_scales(int64_t batch) const;
  void accumulate(const SampleSource&, int64_t first, int64_t count, const deepseek::LossScales&,
                  deepseek::BatchStats&, FiniteFinder* = nullptr, QuantizationCounts* = nullptr);
  std::string locate_non_finite(const SampleSource&, int64_t batch);
  void update_average();
  void join_average();

  Exec& exec_;
  TrainConfig config_;
  deepseek::Model model_, compute_model_, gradients_, average_;
  Optimizer optimizer_;
  RopeTable rope_;
  Counters counters_;
  // The average runs beside the next step's forward and backward passes, on a thread and pool of its own.
  std::unique_ptr<ThreadPool> average_pool_;
  std::thread average_thread_;
};

// Fills a micro-batch: samples [first, first + count) of the batch whose first sample is `batch_begin` of the
// run.
deepseek::MicroBatch make_micro_batch(Exec&, const SampleSource&, int64_t batch_begin, int64_t first,
                                      int64_t count, int64_t sequence_length, int64_t depths,
                                      int64_t gradient_groups, bool isolate_documents);

}  // namespace moray
