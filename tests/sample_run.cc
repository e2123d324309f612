// Writes two made-up run folders and their reports, for the tests that look at them with a browser and
// TensorBoard:
//   sample_run FOLDER
// balanced/ was killed once and resumed; unbalanced/ collapses onto few experts.
#include <cmath>
#include <cstdio>

#include "base/random.h"
#include "report/report.h"
#include "report/tensorboard.h"

namespace {

using namespace moray;

constexpr int64_t kSteps = 500, kKilledAt = 320, kResumedFrom = 300;
constexpr int kLayers = 5, kExperts = 16;

StepMetrics made_up_step(int64_t step, double collapse) {
  Random random(7 + static_cast<uint64_t>(collapse * 10), static_cast<uint64_t>(step));
  const double done = static_cast<double>(step) / kSteps;
  StepMetrics m;
  m.step = step;
  m.tokens = step * 8192;
  m.loss =
      2.1 + 5.9 * std::exp(-9 * done) + 0.8 * std::exp(-2 * done) + 0.05 * collapse + 0.08 * random.normal();
  m.mtp_loss = {m.loss + 0.7 + 0.05 * random.normal()};
  m.balance_loss = 1e-4 * (1 + 0.1 * random.uniform());
  if (step % 50 == 0) m.validation_loss = m.loss + 0.05;
  m.grad_norm = 0.4 + 4 * std::exp(-12 * done) + 0.1 * std::abs(random.normal()) + (step == 210 ? 3 : 0);
  m.learning_rate =
      step < 40 ? 1e-3 * static_cast<double>(step) / 40 : 1e-4 + 4.5e-4 * (1 + std::cos(3.1415 * done));
  m.tokens_per_second = 21500 + 500 * random.normal();
  m.peak_memory_bytes = 920'000'000;
  m.skipped_steps = step > 210 ? 1 : 0;
  for (int layer = 0; layer < kLayers; ++layer) {
    std::vector<int64_t> tokens;
    for (int e = 0; e < kExperts; ++e) {
      const double bias = Random(99, static_cast<uint64_t>(layer * kExperts + e)).normal();
      const double skew = collapse > 0 ? bias * (0.3 + collapse * done) : 0.8 * bias * std::exp(-8 * done);
      tokens.push_back(std::llround(2048 * std::exp(skew + 0.08 * random.normal())));
    }
    m.add_moe_layer(tokens);
  }
  return m;
}

void write_steps(const fs::path& run, int64_t resumed, int64_t last, double collapse) {
  MetricsWriter metrics(run, resumed, kSteps);
  TensorBoardWriter tensorboard(run, resumed);
  for (int64_t step = resumed + 1; step <= last; ++step) {
    const StepMetrics m = made_up_step(step, collapse);
    metrics.write(m);
    tensorboard.write(step, 1.7e9 + static_cast<double>(step), tensorboard_scalars(m));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: sample_run FOLDER\n"), 2;
  const fs::path folder = argv[1];
  const fs::path balanced = folder / "balanced", unbalanced = folder / "unbalanced";
  write_steps(balanced, 0, kKilledAt, 0);
  write_steps(balanced, kResumedFrom, kSteps, 0);
  write_steps(unbalanced, 0, kSteps, 0.8);
  write_file_atomically(balanced / "recipe.toml",
                        "[train]\n# </script><script>document.title='injected'</script>\nseed = 1\n");
  write_file_atomically(
      balanced / "evaluation.json",
      R"({"bits_per_byte":1.712,"xz_bits_per_byte":1.62,"gzip_bits_per_byte":1.93,"weights":"<b>ema</b>"})");
  write_report({balanced}, folder / "report.html");
  write_report({balanced, unbalanced}, folder / "compare.html");
  return 0;
}
