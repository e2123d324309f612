#include "train/checkpoint_writer.h"

#include <gtest/gtest.h>

#include "base/test_help.h"

namespace moray {
namespace {

CheckpointContent content_of(const Tensor& tensor) {
  CheckpointContent content;
  content.model = {{"weight", tensor}};
  content.config_json = "{}";
  content.trainer_json = "{}";
  return content;
}

TEST(CheckpointWriter, KeepsWhatTheTensorsHeldWhenAsked) {
  const test::ScratchFolder scratch;
  Allocator allocator;
  {
    const Tensor weight = Tensor::zeros(allocator, {1 << 16}, DType::f32);
    CheckpointWriter writer(scratch.path(), 2);
    EXPECT_TRUE(writer.wait().empty());
    for (int64_t step = 1; step <= 4; ++step) {
      weight.data<float>()[0] = static_cast<float>(step);
      writer.save(allocator, step, content_of(weight));
      weight.data<float>()[0] = -1;  // training goes on while the disk is written
    }
    const fs::path newest = writer.wait();
    EXPECT_EQ(newest.filename(), "step-00000004");
    EXPECT_EQ(list_checkpoints(scratch.path()).size(), 2u);
    const Tensor read = Tensor::zeros(allocator, {1 << 16}, DType::f32);
    open_checkpoint(newest).model().read("weight", read);
    EXPECT_EQ(read.data<float>()[0], 4);
  }
}

TEST(CheckpointWriter, AFailureComesOutAtTheNextCall) {
  const test::ScratchFolder scratch;
  write_file_atomically(scratch.path() / "file", "no folder");
  Allocator allocator;
  const Tensor weight = Tensor::zeros(allocator, {16}, DType::f32);
  CheckpointWriter writer(scratch.path() / "file", 2);
  writer.save(allocator, 1, content_of(weight));
  EXPECT_THROW(writer.wait(), Error);
  EXPECT_TRUE(writer.wait().empty());
}

}  // namespace
}  // namespace moray
