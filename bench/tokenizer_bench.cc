// How fast one core encodes, and how long training takes. Usage: tokenizer_bench TEXT... (files read as one
// text each; the tokenizer is trained on all of them first). Claim: encoding at 20 MB/s or more on one core.
#include <fmt/core.h>
#include <time.h>

#include <algorithm>

#include "base/error.h"
#include "data/bpe_train.h"

using namespace moray;

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
    fmt::print("encode {}: {:.1f} MB/s ({:.2f} times the claimed 20), {:.2f} bytes a token\n", argv[i],
               speed / 1e6, speed / kClaimedBytesPerSecond,
               static_cast<double>(text.size()) / static_cast<double>(ids.size()));
  }
}
}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
  } catch (const moray::Error& error) {
    fmt::print(stderr, "tokenizer_bench: {}\n", error.what());
    return 1;
  }
}
