// Checkpoints against the disk: saving beside a plain write and fsync of as many bytes, loading beside a
// plain read, both from files that the page cache was told to forget. Usage: checkpoint_bench FOLDER
// [MEGABYTES].
//
// Claim: 80% of the disk's rate or more, either way.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "backend/cpu/register.h"
#include "bench/sheet.h"
#include "checkpoint/checkpoint.h"

namespace moray {
namespace {

constexpr size_t kPieceBytes = 4 << 20;

double seconds_of(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class PlainFile {
 public:
  PlainFile(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (fd_ < 0) fail("{}: cannot be opened", path.string());
  }
  ~PlainFile() { ::close(fd_); }
  int fd() const { return fd_; }

 private:
  int fd_;
};

void write_plain(const fs::path& path, const std::vector<Tensor>& tensors) {
  const PlainFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
  for (const Tensor& tensor : tensors)
    for (size_t at = 0; at < tensor.bytes(); at += kPieceBytes) {
      const size_t bytes = std::min(kPieceBytes, tensor.bytes() - at);
      if (::write(file.fd(), tensor.raw() + at, bytes) != static_cast<ssize_t>(bytes))
        fail("{}: cannot be written", path.string());
    }
  if (::fsync(file.fd()) != 0) fail("{}: cannot be synced", path.string());
}

void read_plain(const fs::path& path, const std::vector<Tensor>& tensors) {
  const PlainFile file(path, O_RDONLY);
  for (const Tensor& tensor : tensors)
    for (size_t at = 0; at < tensor.bytes(); at += kPieceBytes) {
      const size_t bytes = std::min(kPieceBytes, tensor.bytes() - at);
      if (::read(file.fd(), tensor.raw() + at, bytes) != static_cast<ssize_t>(bytes))
        fail("{}: cannot be read", path.string());
    }
}

void forget(const fs::path& path) {
  const auto one = [](const fs::path& file) {
    ::posix_fadvise(PlainFile(file, O_RDONLY).fd(), 0, 0, POSIX_FADV_DONTNEED);
  };
  if (fs::is_regular_file(path)) return one(path);
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) one(entry.path());
}

std::string rates(const char* ours, double ours_seconds, const char* plain, double plain_seconds,
                  double bytes) {
  return fmt::format("{} {:.0f} MB/s, {} {:.0f} MB/s", ours, 1e-6 * bytes / ours_seconds, plain,
                     1e-6 * bytes / plain_seconds);
}

void run(int argc, char** argv) {
  constexpr int64_t kTensors = 64, kWidth = 1024;
  constexpr int kRounds = 3;
  constexpr double kBar = 0.80;
  if (argc < 2) fail("usage: checkpoint_bench FOLDER [MEGABYTES]");
  const int64_t megabytes = argc > 2 ? std::atoll(argv[2]) : 512;
  if (megabytes < 1) fail("{}: not a number of megabytes", argv[2]);
  cpu::register_kernels();
  Sheet sheet("Checkpoints, share of the disk's plain rates", 1);
  const fs::path folder = fs::path(argv[1]) / fmt::format("moray-checkpoint-bench-{}", ::getpid());
  fs::create_directories(folder);
  const int64_t rows = std::max<int64_t>(1, (megabytes << 20) / (kTensors * kWidth * 4));
  std::vector<Tensor> tensors;
  CheckpointContent content;
  content.config_json = content.trainer_json = "{}";
  for (int64_t i = 0; i < kTensors; ++i) {
    tensors.push_back(sheet.tensor({rows, kWidth}));
    const std::string name = fmt::format("layers.{}.weight", i);
    if (i % 4 == 0)  // a quarter is the model, the rest moments and average
      content.model.push_back({name, tensors.back()});
    else if (content.state.empty())
      content.state.push_back({"moments", {{name, tensors.back()}}});
    else
      content.state[0].tensors.push_back({name, tensors.back()});
  }
  const double bytes = static_cast<double>(kTensors) * static_cast<double>(tensors[0].bytes());
  const fs::path plain = folder / "plain";
  std::vector<double> write, save, read, load;
  fs::path saved;
  for (int round = 0; round < kRounds; ++round) {
    write.push_back(seconds_of([&] { write_plain(plain, tensors); }));
    save.push_back(seconds_of([&] { saved = save_checkpoint(folder / "run", round, content); }));
    remove_old_checkpoints(folder / "run", 1);
  }
  // In turns, long after the writes: what a disk has just taken it reads back slowly at times.
  for (int round = 0; round < 2 * kRounds; ++round) {
    forget(plain);
    read.push_back(seconds_of([&] { read_plain(plain, tensors); }));
    forget(saved);
    load.push_back(seconds_of([&] {
      const Checkpoint checkpoint = open_checkpoint(saved);
      for (const NamedTensor& named : content.model) checkpoint.model().read(named.name, named.tensor);
      for (const NamedTensor& named : content.state[0].tensors)
        checkpoint.state("moments").read(named.name, named.tensor);
    }));
  }
  fs::remove_all(folder);
  for (std::vector<double>* times : {&write, &save, &read, &load}) std::sort(times->begin(), times->end());
  sheet.row(fmt::format("save {:.0f} MB", 1e-6 * bytes),
            rates("save", save[0], "write and fsync", write[0], bytes), write[0] / save[0], "a plain write",
            kBar);
  sheet.row(fmt::format("load {:.0f} MB, checksums verified", 1e-6 * bytes),
            rates("load", load[0], "read", read[0], bytes), read[0] / load[0], "a plain read", kBar);
  const auto median = [](const std::vector<double>& sorted) { return sorted[sorted.size() / 2]; };
  fmt::print("medians: {}; {}\n", rates("save", median(save), "write and fsync", median(write), bytes),
             rates("load", median(load), "read", median(read), bytes));
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(argc, argv); });
}
