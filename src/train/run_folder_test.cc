#include "train/run_folder.h"

#include <gtest/gtest.h>

#include "base/test_help.h"

namespace moray {
namespace {

void save(const fs::path& parent, int64_t step) {
  Allocator allocator;
  CheckpointContent content;
  const Tensor tensor = Tensor::zeros(allocator, {8}, DType::f32);
  content.model.push_back({"weight", tensor});
  content.config_json = "{}";
  content.trainer_json = "{}";
  save_checkpoint(parent, step, content);
}

void damage(const fs::path& file) {
  std::string bytes = read_file(file);
  bytes.back() ^= 1;
  write_file_atomically(file, bytes);
}

TEST(RunFolderLock, IsExclusiveAndFreedAtItsEnd) {
  const test::ScratchFolder scratch;
  {
    const RunFolderLock lock(scratch / "run");
    EXPECT_NE(test::error_of([&] { RunFolderLock second(scratch / "run"); }).find("another training"),
              std::string::npos);
    const RunFolderLock elsewhere(scratch / "other");
  }
  const RunFolderLock again(scratch / "run");
}

TEST(OpenNewestCheckpoint, PassesDamagedOnes) {
  const test::ScratchFolder scratch;
  EXPECT_FALSE(open_newest_checkpoint(scratch.path()));
  for (int64_t step : {1, 2, 3, 4}) save(scratch.path(), step);
  EXPECT_EQ(open_newest_checkpoint(scratch.path())->step(), 4);
  damage(scratch / "step-00000004/model/model.safetensors");  // right size, wrong bits
  fs::remove(scratch / "step-00000003/state/trainer.json");   // not complete
  EXPECT_EQ(open_newest_checkpoint(scratch.path())->step(), 2);
  EXPECT_TRUE(fs::exists(scratch / "damaged-step-00000003"));
  EXPECT_TRUE(fs::exists(scratch / "damaged-step-00000004"));
  EXPECT_EQ(list_checkpoints(scratch.path()).size(), 2u);
}

TEST(OpenNewestCheckpoint, ThrowsWhenNoneIsWholeAndTouchesNothing) {
  const test::ScratchFolder scratch;
  save(scratch.path(), 1);
  damage(scratch / "step-00000001/manifest.json");
  for (int repeat = 0; repeat < 2; ++repeat)
    EXPECT_NE(test::error_of([&] {
                open_newest_checkpoint(scratch.path());
              }).find("no checkpoint of this run is whole"),
              std::string::npos);
  EXPECT_TRUE(fs::exists(scratch / "step-00000001"));
}

}  // namespace
}  // namespace moray
