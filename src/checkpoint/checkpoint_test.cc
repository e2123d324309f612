#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <thread>

#include "base/random.h"
#include "base/test_help.h"

namespace moray {
namespace {

using test::error_of;

// A number that tells the step and is exact in BF16.
float mark_of(int64_t step) {
  return static_cast<float>(step % 251);
}

class Checkpoints : public testing::Test {
 protected:
  // Every number in it tells the step, so that a mixture of two steps would show.
  CheckpointContent content(int64_t step, int64_t rows = 50) {
    const auto filled = [&](Shape shape, DType dtype) {
      Tensor tensor = Tensor::empty(allocator_, shape, DType::f32);
      for (float& x : tensor.span<float>()) x = mark_of(step);
      return dtype == DType::f32 ? tensor : as_bf16(tensor);
    };
    CheckpointContent c;
    c.model = {{"model.embed_tokens.weight", filled({rows, 64}, DType::f32), DType::bf16},
               {"model.norm.weight", filled({64}, DType::f32), DType::bf16},
               {"model.layers.1.mlp.gate.e_score_correction_bias", filled({8}, DType::f32)}};
    c.max_shard_bytes = 1000;
    c.config_json = "{\"hidden_size\": 64}\n";
    c.model_files = {{"tokenizer.json", "{}"}};
    c.state = {{"master", {{"model.embed_tokens.weight", filled({rows, 64}, DType::f32)}}},
               {"moments", {{"first.model.norm.weight", filled({64}, DType::bf16)}}}};
    c.trainer_json = fmt::format("{{\"step\": {}}}\n", step);
    return c;
  }

  Tensor as_bf16(const Tensor& tensor) {
    Tensor narrow = Tensor::empty(allocator_, tensor.shape(), DType::bf16);
    for (int64_t i = 0; i < tensor.elements(); ++i) narrow.data<bf16>()[i] = to_bf16(tensor.data<float>()[i]);
    return narrow;
  }

  void expect_holds(const fs::path& path, int64_t step) {
    const Checkpoint checkpoint = open_checkpoint(path);
    EXPECT_EQ(checkpoint.step(), step);
    EXPECT_EQ(checkpoint.trainer_json(), fmt::format("{{\"step\": {}}}\n", step));
    const auto expect_all = [&](const Tensor& tensor) {
      for (float x : tensor.span<float>()) ASSERT_EQ(x, mark_of(step));
    };
    for (const std::string& name : checkpoint.model().names()) {
      expect_all(checkpoint.model().read(name, allocator_, DType::f32));
    }
    expect_all(checkpoint.state("master").read("model.embed_tokens.weight", allocator_, DType::f32));
    expect_all(checkpoint.state("moments").read("first.model.norm.weight", allocator_, DType::f32));
  }

  std::vector<std::string> entries(const fs::path& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::vector<fs::path> files_of(const fs::path& checkpoint) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(checkpoint)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  test::ScratchFolder folder_;
  Allocator allocator_;
};

TEST_F(Checkpoints, RoundTrip) {
  const fs::path parent = folder_ / "run" / "checkpoints";
  EXPECT_FALSE(latest_checkpoint(parent).has_value());
  write_file_atomically(folder_ / "generation_config.json", "{\"eos\": 1}");
  CheckpointContent saved = content(1234);
  saved.copied_files = {folder_ / "generation_config.json"};
  const fs::path path = save_checkpoint(parent, 1234, saved);
  EXPECT_EQ(path, parent / "step-00001234");
  EXPECT_EQ(entries(parent), std::vector<std::string>{"step-00001234"});
  expect_holds(path, 1234);
  const Checkpoint checkpoint = open_checkpoint(path);
  EXPECT_EQ(checkpoint.model().tensor("model.norm.weight").dtype, "BF16");
  EXPECT_EQ(checkpoint.model().tensor("model.layers.1.mlp.gate.e_score_correction_bias").dtype, "F32");
  EXPECT_EQ(read_file(checkpoint.model_file("generation_config.json")), "{\"eos\": 1}");
  EXPECT_EQ(read_file(checkpoint.model_file("config.json")), saved.config_json);
  EXPECT_TRUE(checkpoint.has_state("master"));
  EXPECT_FALSE(checkpoint.has_state("ema"));
  EXPECT_EQ(error_of([&] { checkpoint.state("ema"); }),
            path.string() + ": there is no state/ema.safetensors");
}

TEST_F(Checkpoints, LatestAndOldOnes) {
  for (int64_t step : {5, 100, 20}) save_checkpoint(folder_.path(), step, content(step));
  fs::create_directories(folder_ / "step-00000300" / "model");  // not a checkpoint
  fs::copy(folder_ / "step-00000005", folder_ / "step-00000400",
           fs::copy_options::recursive);  // not its step
  fs::create_directories(folder_ / "step-7");
  write_file_atomically(folder_ / "notes.txt", "mine");
  EXPECT_EQ(latest_checkpoint(folder_.path()), folder_ / "step-00000100");
  EXPECT_EQ(list_checkpoints(folder_.path()).size(), 3u);

  fs::resize_file(folder_ / "step-00000100" / "state" / "trainer.json", 3);
  EXPECT_EQ(latest_checkpoint(folder_.path()), folder_ / "step-00000020");
  save_checkpoint(folder_.path(), 100, content(100));  // replaces the damaged one
  expect_holds(folder_ / "step-00000100", 100);

  remove_old_checkpoints(folder_.path(), 2);
  EXPECT_EQ(list_checkpoints(folder_.path()),
            (std::vector<fs::path>{folder_ / "step-00000020", folder_ / "step-00000100"}));
  remove_old_checkpoints(folder_.path(), 5);
  remove_old_checkpoints(folder_.path(), 1);
  EXPECT_EQ(entries(folder_.path()), (std::vector<std::string>{"notes.txt", "step-00000100", "step-00000300",
                                                               "step-00000400", "step-7"}));
}

TEST_F(Checkpoints, LeftoversAreIgnoredAndRemoved) {
  save_checkpoint(folder_.path(), 1, content(1));
  for (const char* leftover : {".tmp-step-00000002", ".trash-step-00000000"}) {
    fs::copy(folder_ / "step-00000001", folder_ / leftover, fs::copy_options::recursive);
  }
  fs::create_directories(folder_ / ".tmp-mine");
  EXPECT_EQ(latest_checkpoint(folder_.path()), folder_ / "step-00000001");
  save_checkpoint(folder_.path(), 2, content(2));
  EXPECT_EQ(entries(folder_.path()),
            (std::vector<std::string>{".tmp-mine", "step-00000001", "step-00000002"}));
}

TEST_F(Checkpoints, SavingAStepAgainReplacesIt) {
  save_checkpoint(folder_.path(), 7, content(6));
  save_checkpoint(folder_.path(), 7, content(7));
  expect_holds(folder_ / "step-00000007", 7);
  EXPECT_EQ(entries(folder_.path()).size(), 1u);
}

TEST_F(Checkpoints, OneThatStandsAsideCountsUntilItsPlaceIsTaken) {
  save_checkpoint(folder_.path(), 7, content(7));
  fs::rename(folder_ / "step-00000007", folder_ / ".aside-step-00000007");
  EXPECT_EQ(latest_checkpoint(folder_.path()), folder_ / ".aside-step-00000007");
  save_checkpoint(folder_.path(), 8, content(8));
  EXPECT_EQ(entries(folder_.path()), (std::vector<std::string>{"step-00000007", "step-00000008"}));
  fs::copy(folder_ / "step-00000007", folder_ / ".aside-step-00000007", fs::copy_options::recursive);
  EXPECT_EQ(list_checkpoints(folder_.path()).size(), 2u);
  save_checkpoint(folder_.path(), 9, content(9));
  EXPECT_EQ(entries(folder_.path()),
            (std::vector<std::string>{"step-00000007", "step-00000008", "step-00000009"}));
}

TEST_F(Checkpoints, OneFlippedByteIsDetected) {
  const fs::path path = save_checkpoint(folder_.path(), 3, content(3));
  Random random(3, name_stream("flips"));
  const std::vector<fs::path> files = files_of(path);
  ASSERT_GE(files.size(), 9u);
  for (const fs::path& file : files) {
    const uint64_t size = fs::file_size(file);
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    const auto put = [&](uint64_t at, char value) {
      stream.seekp(static_cast<std::streamoff>(at));
      stream.put(value).flush();
    };
    for (int i = 0; i < 200; ++i) {
      const uint64_t at = random.below(size);
      stream.seekg(static_cast<std::streamoff>(at));
      const char old = static_cast<char>(stream.get());
      put(at, static_cast<char>(old ^ static_cast<char>(1u << random.below(8))));
      const std::string message = error_of([&] { verify_checkpoint(path); });
      EXPECT_TRUE(message.starts_with(file.string() + ": damaged")) << at << ": " << message;
      put(at, old);
    }
  }
  expect_holds(path, 3);
}

TEST_F(Checkpoints, TruncatedAndMissingFilesAreDetected) {
  const fs::path path = save_checkpoint(folder_.path(), 3, content(3));
  for (const fs::path& file : files_of(path)) {
    const std::string whole = read_file(file);
    for (uint64_t size : {whole.size() - 1, whole.size() / 2, size_t{0}}) {
      fs::resize_file(file, size);
      EXPECT_TRUE(error_of([&] { verify_checkpoint(path); }).starts_with(file.string() + ": damaged"))
          << size;
      EXPECT_FALSE(latest_checkpoint(folder_.path()).has_value());
    }
    std::ofstream(file, std::ios::binary) << whole << "x";
    EXPECT_TRUE(error_of([&] { verify_checkpoint(path); }).starts_with(file.string() + ": damaged"));
    fs::remove(file);
    EXPECT_TRUE(error_of([&] { open_checkpoint(path); }).starts_with(file.string() + ": ")) << file;
    std::ofstream(file, std::ios::binary) << whole;
  }
  expect_holds(path, 3);
}

TEST_F(Checkpoints, AModelFileBesideTheManifestIsRefused) {
  const fs::path path = save_checkpoint(folder_.path(), 3, content(3));
  write_safetensors(path / "model" / "model.safetensors", content(4).model);
  EXPECT_NE(error_of([&] { open_checkpoint(path); }).find("is not in the manifest"), std::string::npos);
}

// A limit on the size of files stands for the full disk: writes fail half-way through a file.
TEST_F(Checkpoints, AFullDiskLeavesTheOldOnes) {
  save_checkpoint(folder_.path(), 1, content(1));
  struct rlimit old {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  for (rlim_t bytes : {rlim_t{0}, rlim_t{10}, rlim_t{500}, rlim_t{5'000}, rlim_t{200'000}}) {
    const CheckpointContent large = content(2, 2'000);
    const struct rlimit limit { bytes, old.rlim_max };
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    const std::string message = error_of([&] { save_checkpoint(folder_.path(), 2, large); });
    ::setrlimit(RLIMIT_FSIZE, &old);
    EXPECT_NE(message.find("cannot write: File too large"), std::string::npos) << bytes << ": " << message;
    EXPECT_EQ(entries(folder_.path()), std::vector<std::string>{"step-00000001"});
    expect_holds(folder_ / "step-00000001", 1);
  }
  ::signal(SIGXFSZ, SIG_DFL);
  save_checkpoint(folder_.path(), 2, content(2));
  expect_holds(folder_ / "step-00000002", 2);
}

TEST_F(Checkpoints, AKillAtAnyInstantLeavesAWholeCheckpoint) {
  Random random(11, name_stream("kills"));
  save_checkpoint(folder_.path(), 1, content(1));
  int64_t newest = 1;
  int kills_inside = 0;
  for (int kill = 0; kill < 30; ++kill) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      // Every step is saved twice, so that kills also fall into replacements.
      for (int64_t step = newest;; ++step) {
        save_checkpoint(folder_.path(), step, content(step));
        save_checkpoint(folder_.path(), step, content(step));
        remove_old_checkpoints(folder_.path(), 2);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(100'000)));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    for (const std::string& name : entries(folder_.path())) kills_inside += name.starts_with('.') ? 1 : 0;

    const std::vector<fs::path> all = list_checkpoints(folder_.path());
    ASSERT_FALSE(all.empty());
    int64_t step = 0;
    for (const fs::path& path : all) {
      step = open_checkpoint(path).step();
      expect_holds(path, step);
    }
    EXPECT_GE(step, newest) << "the newest checkpoint went away";
    newest = step;
  }
  EXPECT_GT(kills_inside, 5) << "the kills missed the saves";
}

}  // namespace
}  // namespace moray
