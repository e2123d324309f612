// How fast samples come out of a dataset. Usage: data_bench CORPUS [THREADS] (a folder or text file).
//
// Builds a dataset of it in the system's temporary folder, then draws samples in training's order on one
// thread. Held against a copy of the bytes that a sample has (tokens and document starts, four bytes each):
// the least that filling a micro-batch can cost.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <vector>

#include "backend/cpu/register.h"
#include "bench/sheet.h"
#include "data/bpe_train.h"
#include "data/build.h"
#include "data/dataset.h"

namespace moray {
namespace {

// A folder that goes with it.
struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / fmt::format("moray-data-bench-{}", ::getpid());
  TemporaryFolder() { fs::create_directories(path); }
  ~TemporaryFolder() { fs::remove_all(path); }
};

Tokenizer train_tokenizer(const fs::path& path) {
  constexpr size_t kBytes = 2 << 20;
  Corpus corpus(path, {});
  size_t bytes = 0;
  Document document;
  return train_bpe(
      [&](std::string& text) {
        if (bytes > kBytes || !corpus.next(document)) return false;
        bytes += document.text.size();
        text = std::move(document.text);
        return true;
      },
      {});
}

void measure(Sheet& sheet, const Dataset& dataset, int64_t sequence_length) {
  constexpr int64_t kExtra = 2;  // labels of the main model and of one MTP depth
  constexpr uint64_t kSamples = 256;
  constexpr double kStepTokensPerSecond = 10000;  // more than the recipe small does on a few cores
  std::vector<int32_t> tokens(static_cast<size_t>(sequence_length + kExtra)),
      starts(static_cast<size_t>(sequence_length));
  std::vector<int32_t> from(tokens.size() + starts.size(), 1), to(from.size());
  uint64_t next = 0;
  const auto draw = [&] {
    for (uint64_t i = 0; i < kSamples; ++i) dataset.sample(next++, sequence_length, kExtra, tokens, starts);
  };
  const auto copy = [&] {
    for (uint64_t i = 0; i < kSamples; ++i) {
      std::copy(from.begin(), from.end(), to.begin());
      from[i % from.size()] = to[(i + 1) % to.size()] + 1;  // each copy differs
    }
  };
  const std::vector<Timing> timings = time_in_turns({{"samples", draw}, {"copy", copy}});
  const double samples = kSamples / timings[0].best;
  sheet.row(fmt::format("samples of {} tokens, one thread", sequence_length),
            fmt::format("{:.0f} samples/s = {:.1f} M tokens/s (median {:.0f} samples/s): {:.4f}% of the time "
                        "of a step at {} tokens/s",
                        samples, samples * static_cast<double>(sequence_length) * 1e-6,
                        kSamples / timings[0].median,
                        100 * kStepTokensPerSecond / (samples * static_cast<double>(sequence_length)),
                        kStepTokensPerSecond),
            timings[1].best / timings[0].best, "a copy in L1");
}

void run(int argc, char** argv) {
  if (argc < 2) fail("usage: data_bench CORPUS [THREADS]");
  const int threads = resolve_threads(argc > 2 ? std::atoi(argv[2]) : 0);
  cpu::register_kernels();
  Sheet sheet("Data: building a dataset and drawing samples", threads);
  const TemporaryFolder folder;
  BuildOptions options;
  options.corpora.push_back({.name = "corpus", .path = argv[1]});
  options.threads = threads;
  uint64_t bytes = 0;
  options.progress = [&](const BuildProgress& progress) { bytes = progress.bytes; };
  const Tokenizer tokenizer = train_tokenizer(options.corpora[0].path);
  const auto start = std::chrono::steady_clock::now();
  build_dataset(tokenizer, folder.path / "dataset", options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("build: {:.1f} MB of text in {:.2f} s = {:.1f} MB/s\n", 1e-6 * static_cast<double>(bytes),
             seconds, 1e-6 * static_cast<double>(bytes) / seconds);
  const Dataset dataset = Dataset::open(folder.path / "dataset", 1);
  for (const int64_t length : {512, 4096}) measure(sheet, dataset, length);
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(argc, argv); });
}
