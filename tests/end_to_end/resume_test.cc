// Nothing is lost: whatever ends a run, going on gives the bits of a run that nothing disturbed.
#include <gtest/gtest.h>

#include <csignal>

#include "base/random.h"
#include "checkpoint/checkpoint.h"
#include "workshop.h"

namespace moray::test {
namespace {

using Settings = std::vector<std::string>;

// Many short steps, most of the time spent in saves, so that kills fall there too.
Settings many_saves(int steps) {
  return {"train.tokens=" + std::to_string(steps * kBatch * kSequence), "train.learning_rate=3e-3",
          "run.checkpoint_interval_steps=1", "run.validation_interval_steps=3"};
}

Invocation resuming(Invocation invocation) {
  invocation.arguments.insert(invocation.arguments.end(), {"--resume", "auto"});
  return invocation;
}

bool holds_half_a_save(const fs::path& run) {
  if (!fs::exists(run / "checkpoints")) return false;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    if (entry.path().filename().string().starts_with(".tmp-")) return true;
  return false;
}

// Kills runs of the recipe at random moments and resumes them, until `kills` were had; each run must end as
// the undisturbed one did. A kill comes at most half an undisturbed run's time after a start.
void kill_and_resume(const Settings& settings, int kills, uint64_t seed) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const double start = seconds_now();
  const Outcome undisturbed = moray(workshop.train(scratch / "undisturbed", settings));
  const double duration = seconds_now() - start;
  ASSERT_EQ(undisturbed.status, 0) << undisturbed.err;

  int killed = 0, inside_saves = 0, runs = 0;
  uint64_t starts = 0;
  while (killed < kills) {
    const fs::path run = scratch / ("run" + std::to_string(runs++));
    Outcome outcome;
    for (bool ended = false; !ended;) {
      Process process(resuming(workshop.train(run, settings)));
      Random random(seed, starts++);
      ended = process.ends_within(killed < kills ? 0.5 * random.uniform() * duration : 60);
      if (!ended) {
        process.signal(SIGKILL);
        ++killed;
      }
      outcome = process.wait();
      inside_saves += !ended && holds_half_a_save(run);
      ASSERT_LE(killed, kills) << "the last run does not end";
      if (const auto latest = latest_checkpoint(run / "checkpoints"))
        verify_checkpoint(*latest);  // throws if half
    }
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_EQ(json_value(outcome.out, "loss_bits"), json_value(undisturbed.out, "loss_bits"));
    EXPECT_EQ(json_value(outcome.out, "validation_loss"), json_value(undisturbed.out, "validation_loss"));
    EXPECT_TRUE(weights_of(run) == weights_of(scratch / "undisturbed"))
        << "weights, moments or average differ";
    EXPECT_EQ(metrics_of(run), metrics_of(scratch / "undisturbed"));
    EXPECT_FALSE(holds_half_a_save(run));
  }
  std::printf("%d kills, %d of them inside a save, over %d runs\n", killed, inside_saves, runs);
}

TEST(Resume, AfterKills) {
  kill_and_resume(many_saves(25), 8, 1);
}

Settings in_fp8(int steps) {
  Settings settings = many_saves(steps);
  settings.insert(settings.end(), {"train.precision=fp8", "run.model_dtype=fp8"});
  return settings;
}

TEST(Resume, AfterKillsInFp8) {
  kill_and_resume(in_fp8(12), 3, 4);
}

TEST(LongResume, AfterAHundredKills) {
  kill_and_resume(many_saves(40), 50, 2);
  Settings narrow = many_saves(40);
  narrow.insert(narrow.end(),
                {"run.model_dtype=bf16", "train.adamw.moments=bf16", "train.gradient_groups=2"});
  kill_and_resume(narrow, 50, 3);
  kill_and_resume(in_fp8(40), 20, 5);
}

TEST(Resume, OfAFinishedRunChangesNothing) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const Outcome first = moray(workshop.train(scratch / "run"));
  const auto metrics = metrics_of(scratch / "run");
  const Outcome again = moray(resuming(workshop.train(scratch / "run")));
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_EQ(again.out, first.out) << "loss bits and validation loss included";
  EXPECT_EQ(metrics_of(scratch / "run"), metrics);
}

TEST(Resume, GoesOnWithMoreTokens) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const std::string rate = "train.learning_rate=1e-3",
                    more = "train.tokens=" + std::to_string(20 * kBatch * kSequence);
  ASSERT_EQ(moray(workshop.train(scratch / "twice", {rate})).status, 0);
  const Outcome twice = moray(resuming(workshop.train(scratch / "twice", {rate, more})));
  const Outcome once = moray(workshop.train(scratch / "once", {rate, more}));
  EXPECT_EQ(json_value(twice.out, "loss_bits"), json_value(once.out, "loss_bits"));
  EXPECT_TRUE(weights_of(scratch / "twice") == weights_of(scratch / "once"));
}

// A run long enough to be interrupted in its middle.
const Settings kLongRun = {"train.tokens=51200", "train.learning_rate=3e-3",
                           "run.checkpoint_interval_steps=0", "run.validation_interval_steps=0"};

void wait_for_lines(Process& process, const fs::path& metrics, size_t lines) {
  while (!process.ended() && !(fs::exists(metrics) && lines_of(read_file(metrics)).size() >= lines))
    sleep_seconds(0.002);
}

class Signals : public testing::TestWithParam<int> {};

TEST_P(Signals, SaveAndGoOn) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  Process process(workshop.train(run, kLongRun));
  wait_for_lines(process, run / "metrics.jsonl", 5);
  process.signal(GetParam());
  const Outcome outcome = process.wait();
  ASSERT_EQ(outcome.status, 130) << outcome.err;
  EXPECT_EQ(json_value(outcome.out, "interrupted"), "true");
  const std::string steps = json_value(outcome.out, "steps");
  EXPECT_EQ(steps, std::to_string(lines_of(read_file(run / "metrics.jsonl")).size()));
  EXPECT_LT(std::stoi(steps), 200) << "ended by itself";

  // As the interrupted run says: its own recipe has the settings.
  const Outcome resumed = moray({"train", run / "recipe.toml", "--run", run, "--resume", "--json"});
  const Outcome undisturbed = moray(workshop.train(scratch / "undisturbed", kLongRun));
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(json_value(resumed.out, "loss_bits"), json_value(undisturbed.out, "loss_bits"));
  EXPECT_TRUE(weights_of(run) == weights_of(scratch / "undisturbed"));
  EXPECT_EQ(metrics_of(run), metrics_of(scratch / "undisturbed"));
}

INSTANTIATE_TEST_SUITE_P(Both, Signals, testing::Values(SIGINT, SIGTERM));

TEST(SignalsTwice, EndTheRunAtOnce) {
  const ScratchFolder scratch;
  // One step of many seconds.
  const Settings settings = {"train.tokens=8000000", "train.batch_size=200000", "train.learning_rate=1e-3"};
  Process process(Workshop::get().train(scratch / "run", settings));
  while (!process.ended() && process.err_so_far().find("plan:") == std::string::npos) sleep_seconds(0.01);
  sleep_seconds(0.1);
  process.signal(SIGINT);
  ASSERT_FALSE(process.ends_within(0.3)) << "the first one waits for the step: " << process.wait().err;
  process.signal(SIGTERM);
  ASSERT_TRUE(process.ends_within(2));
  EXPECT_EQ(process.wait().status, 128 + SIGTERM);
}

TEST(Resume, PassesADamagedCheckpoint) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run", checkpoints = run / "checkpoints";
  copy_folder(workshop.trained(), run);
  const auto weights = weights_of(run);
  const auto metrics = metrics_of(run);
  const fs::path newest = *latest_checkpoint(checkpoints);
  flip_byte(newest / "state" / "second_moments.safetensors", -5);
  // What keep_last leaves must be a whole one, also when the damaged one is newer.
  const Outcome outcome = moray(resuming(workshop.train(run, {"run.keep_last=1"})));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: " + newest.string()), std::string::npos) << outcome.err;
  EXPECT_TRUE(fs::exists(checkpoints / ("damaged-" + newest.filename().string())));
  EXPECT_TRUE(weights_of(run) == weights);
  EXPECT_EQ(metrics_of(run), metrics);
}

TEST(Resume, PassesACheckpointCutShort) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  copy_folder(workshop.trained(), run);
  const fs::path newest = *latest_checkpoint(run / "checkpoints");
  fs::resize_file(newest / "model" / "model.safetensors", 1000);
  const Outcome outcome = moray(resuming(workshop.train(run)));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: "), std::string::npos) << outcome.err;
  EXPECT_TRUE(weights_of(run) == weights_of(workshop.trained()));
}

TEST(Resume, RefusesToStartAnewWhenAllCheckpointsAreDamaged) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  copy_folder(workshop.trained(), run);
  for (const fs::path& checkpoint : list_checkpoints(run / "checkpoints"))
    flip_byte(checkpoint / "model" / "model.safetensors", -1);
  const auto before = content_of(run);
  for (int repeat = 0; repeat < 2; ++repeat)
    expect_refusal(moray(resuming(workshop.train(run))),
                   {"model.safetensors", "no checkpoint of this run is whole"});
  EXPECT_TRUE(content_of(run) == before);
}

TEST(RunFolder, IsForOneTrainingAtATime) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  Process process(workshop.train(run, kLongRun));
  wait_for_lines(process, run / "metrics.jsonl", 1);
  expect_refusal(moray(resuming(workshop.train(run, kLongRun))),
                 {run.string(), "another training is at work"});
  process.signal(SIGINT);
  EXPECT_EQ(process.wait().status, 130);
}

TEST(RunFolder, IsNotOverwritten) {
  const Workshop& workshop = Workshop::get();
  const auto before = content_of(workshop.trained());
  expect_refusal(moray(workshop.train(workshop.trained())),
                 {workshop.trained().string(), "already holds a run", "--resume"});
  EXPECT_TRUE(content_of(workshop.trained()) == before);
}

}  // namespace
}  // namespace moray::test
