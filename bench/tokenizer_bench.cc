// How fast one core encodes, and how long training takes. Usage: tokenizer_bench TEXT... (files read as one
// text each; the tokenizer is trained on all of them first). Claim: encoding at 20 MB/s or more on one core;
// also held against what one core reads of memory.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>

#include "backend/cpu/register.h"
#include "base/error.h"
#include "bench/sheet.h"
#include "data/bpe_train.h"

namespace moray {
namespace {

// Processor time of this thread: others on the core do not count.
double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void run(int argc, char** argv) {
  constexpr double kClaimedBytesPerSecond = 20e6;
  constexpr int kRepeats = 3;
  std::vector<std::string> texts;
  for (int i = 1; i < argc; ++i) texts.push_back(read_file(argv[i]));
  if (texts.empty()) fail("usage: tokenizer_bench TEXT...");
  cpu::register_kernels();
  Sheet sheet("Encoding text, share of what one core reads", 1);
  BandwidthProbe probe(1);
  size_t next = 0, bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  double start = thread_seconds();
  const Tokenizer tokenizer = train_bpe(
      [&](std::string& document) {
        if (next == texts.size()) return false;
        document = texts[next++];
        return true;
      },
      {});
  fmt::print("train: {:.1f} MB to {} tokens in {:.2f} s\n", static_cast<double>(bytes) / 1e6,
             tokenizer.vocabulary_size(), thread_seconds() - start);
  for (int i = 1; i < argc; ++i) {
    const std::string& text = texts[static_cast<size_t>(i - 1)];
    double best = 1e30;
    std::vector<int32_t> ids;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      Encoder encoder(tokenizer);  // the cache starts cold
      ids.clear();
      start = thread_seconds();
      encoder.encode(text, SpecialTokens::ignore, ids);
      best = std::min(best, thread_seconds() - start);
    }
    if (tokenizer.decode(ids) != text) fail("{}: decoding does not give the text back", argv[i]);
    const double speed = static_cast<double>(text.size()) / best;
    sheet.row(fmt::format("encode {}", argv[i]),
              fmt::format("{:.1f} MB/s, {:.2f} times the claimed 20, {:.2f} bytes a token", speed / 1e6,
                          speed / kClaimedBytesPerSecond,
                          static_cast<double>(text.size()) / static_cast<double>(ids.size())),
              speed / 1e9 / bandwidth_limit(probe, Moves::read, 1), "read");
  }
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(argc, argv); });
}
