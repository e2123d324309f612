#include "report/metrics.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace moray {
namespace {

class MetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("moray_metrics_" + std::to_string(::getpid()));
  }
  void TearDown() override { fs::remove_all(folder_); }

  void append_text(const char* file, const std::string& text) {
    std::ofstream(folder_ / file, std::ios::app | std::ios::binary) << text;
  }

  fs::path folder_;
};

StepMetrics step_metrics(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.tokens = step * 4096;
  m.loss = 9.0 / static_cast<double>(step) + 0.1;
  m.mtp_loss = {5.25, 1.0 / 3.0};
  m.grad_norm = 0.7;
  m.learning_rate = 2.2e-4;
  m.tokens_per_second = 12345.6;
  m.peak_memory_bytes = int64_t{3} << 30;
  const std::vector<int64_t> tokens = {10, 30, 20, 20};
  m.add_moe_layer(tokens);
  return m;
}

TEST_F(MetricsTest, BalanceIsMaxOverMean) {
  const StepMetrics m = step_metrics(1);
  ASSERT_EQ(m.balance.size(), 1u);
  EXPECT_DOUBLE_EQ(m.balance[0], 1.5);
  EXPECT_EQ(m.expert_load[0], (std::vector<double>{0.5, 1.5, 1.0, 1.0}));
  StepMetrics idle;
  idle.add_moe_layer(std::vector<int64_t>{0, 0});
  EXPECT_EQ(idle.balance[0], 1.0);
}

TEST_F(MetricsTest, EveryFieldReadsBack) {
  StepMetrics m = step_metrics(7);
  m.validation_loss = 3.5;
  m.skipped_steps = 2;
  m.quantization = {{"weights", 1000, 0.25, 0}, {"dispatch", 7, 1.0 / 3.0, 0.125}};
  m.balance_loss = std::numeric_limits<double>::quiet_NaN();
  { MetricsWriter(folder_, 0, 10).write(m); }
  const auto rows = read_metrics(folder_ / "metrics.jsonl");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].step, 7);
  EXPECT_EQ(rows[0].tokens, 7 * 4096);
  EXPECT_EQ(rows[0].loss, m.loss);  // to the bit
  EXPECT_EQ(rows[0].mtp_loss, m.mtp_loss);
  EXPECT_TRUE(std::isnan(rows[0].balance_loss));
  EXPECT_EQ(rows[0].validation_loss, 3.5);
  EXPECT_EQ(rows[0].balance, m.balance);
  EXPECT_EQ(rows[0].grad_norm, m.grad_norm);
  EXPECT_EQ(rows[0].learning_rate, m.learning_rate);
  EXPECT_EQ(rows[0].tokens_per_second, m.tokens_per_second);
  EXPECT_EQ(rows[0].peak_memory_bytes, m.peak_memory_bytes);
  EXPECT_EQ(rows[0].skipped_steps, 2);
  ASSERT_EQ(rows[0].quantization.size(), 2u);
  EXPECT_EQ(rows[0].quantization[1].name, "dispatch");
  EXPECT_EQ(rows[0].quantization[1].elements, 7);
  EXPECT_EQ(rows[0].quantization[1].underflow, 1.0 / 3.0);
  EXPECT_EQ(rows[0].quantization[1].saturated, 0.125);
  const auto loads = read_expert_load(folder_ / "expert_load.jsonl");
  ASSERT_EQ(loads.size(), 1u);
  EXPECT_EQ(loads[0].load, m.expert_load);
}

TEST_F(MetricsTest, ResumeKeepsOneLineAStep) {
  {
    MetricsWriter writer(folder_, 0, 20);
    for (int64_t step = 1; step <= 9; ++step) writer.write(step_metrics(step));
    writer.sync();
  }
  append_text("metrics.jsonl", "{\"step\":10,\"tok");  // cut short by a kill
  {
    MetricsWriter writer(folder_, 6, 20);
    for (int64_t step = 7; step <= 12; ++step) writer.write(step_metrics(step));
  }
  for (const char* file : {"metrics.jsonl", "expert_load.jsonl"}) {
    std::ifstream stream(folder_ / file);
    int64_t expected = 0;
    for (std::string line; std::getline(stream, line);) {
      EXPECT_EQ(nlohmann::json::parse(line)["step"], ++expected) << file;
    }
    EXPECT_EQ(expected, 12) << file;
  }
  { MetricsWriter fresh(folder_, 0, 20); }
  EXPECT_TRUE(read_metrics(folder_ / "metrics.jsonl").empty());
}

TEST_F(MetricsTest, OneLineAStepWhateverTheKills) {
  int64_t resumed = 0;
  for (int round = 0; round < 15; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      MetricsWriter writer(folder_, resumed, 100);
      for (int64_t step = resumed + 1; step <= resumed + 100'000; ++step) writer.write(step_metrics(step));
      ::_exit(0);
    }
    // Even rounds end inside the writes, odd ones perhaps inside the cut.
    const auto lines = [&] { return std::ssize(read_metrics(folder_ / "metrics.jsonl")); };
    const bool wait_for_lines = round % 2 == 0;
    do {
      ::usleep(static_cast<useconds_t>(200 * round));
    } while (wait_for_lines && (!fs::exists(folder_ / "metrics.jsonl") || lines() <= resumed + 3));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    if (!fs::exists(folder_ / "metrics.jsonl")) continue;
    const auto rows = read_metrics(folder_ / "metrics.jsonl");
    for (size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows[i].step, static_cast<int64_t>(i) + 1);
    ASSERT_GE(static_cast<int64_t>(rows.size()), resumed);
    resumed = static_cast<int64_t>(rows.size()) * 3 / 4;
  }
  EXPECT_GT(resumed, 0);
}

TEST_F(MetricsTest, ReaderDropsOnlyACutLastLine) {
  { MetricsWriter(folder_, 0, 1).write(step_metrics(1)); }
  append_text("metrics.jsonl", "{\"step\":2");
  EXPECT_EQ(read_metrics(folder_ / "metrics.jsonl").size(), 1u);
  append_text("metrics.jsonl", "\n");
  EXPECT_THROW(read_metrics(folder_ / "metrics.jsonl"), Error);
  append_text("expert_load.jsonl", "{\"step\":2,\"load\":3}\n");
  EXPECT_THROW(read_expert_load(folder_ / "expert_load.jsonl"), Error);
  EXPECT_THROW(read_metrics(folder_ / "absent.jsonl"), Error);
  // A resumed writer clears such lines away.
  { MetricsWriter writer(folder_, 5, 5); }
  EXPECT_EQ(read_metrics(folder_ / "metrics.jsonl").size(), 1u);
}

TEST_F(MetricsTest, ExpertLoadRowsAreBounded) {
  constexpr int64_t kSteps = 1001;
  {
    MetricsWriter writer(folder_, 0, kSteps);
    for (int64_t step = 1; step <= kSteps; ++step) writer.write(step_metrics(step));
  }
  const auto rows = read_expert_load(folder_ / "expert_load.jsonl");
  EXPECT_LE(rows.size(), static_cast<size_t>(MetricsWriter::kMaxExpertLoadRows));
  EXPECT_GE(rows.size(), 300u);
}

TEST_F(MetricsTest, FullDiskIsAnError) {
  fs::create_directories(folder_);
  fs::create_symlink("/dev/full", folder_ / "metrics.jsonl");
  MetricsWriter writer(folder_, 0, 1);
  EXPECT_THROW(writer.write(step_metrics(1)), Error);
}

}  // namespace
}  // namespace moray
