// The loops of bandwidth.cc, compiled once an instruction set: included there inside a namespace and a target
// of its own. Ranges are multiples of kUnroll lines.
//
// A Line is a cache line: two registers of AVX2, one of AVX-512.

using Line = long long __attribute__((vector_size(64)));
constexpr int64_t kUnroll = 8;  // lines an iteration, over all streams

// Reads kStreams pieces of `lines` lines each, `stride` lines apart, side by side.
template <int kStreams>
long long read_lines(const Line* at, int64_t lines, int64_t stride) {
  constexpr int64_t kRun = kUnroll / kStreams;
  Line sums[kUnroll] = {};
  for (int64_t line = 0; line < lines; line += kRun) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kUnroll; ++i) sums[i] ^= at[i / kRun * stride + line + i % kRun];
  }
  for (int64_t i = 1; i < kUnroll; ++i) sums[0] ^= sums[i];
  return sums[0][0];
}

inline void write_lines(Line* at, int64_t lines) {
  const Line value = {1, 2, 3, 4, 5, 6, 7, 8};
  for (int64_t line = 0; line < lines; line += kUnroll) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kUnroll; ++i) *const_cast<volatile Line*>(at + line + i) = value;
  }
}

inline void update_lines(Line* at, int64_t lines) {
  for (int64_t line = 0; line < lines; line += kUnroll) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kUnroll; ++i) at[line + i] += 1;
  }
}

inline void copy_lines(Line* to, const Line* from, int64_t lines) {
  for (int64_t line = 0; line < lines; line += kUnroll) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kUnroll; ++i) *const_cast<volatile Line*>(to + line + i) = from[line + i];
  }
}

// Past the caches: a line is written without being read first. `from` may be null: write alone.
inline void stream_lines(Line* to, const Line* from, int64_t lines) {
  const __m256i value = _mm256_set1_epi32(1);
  for (int64_t half = 0; half < 2 * lines; ++half) {
    const __m256i loaded = from ? _mm256_load_si256(reinterpret_cast<const __m256i*>(from) + half) : value;
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + half, loaded);
  }
  _mm_sfence();
}

inline long long run_traffic(Traffic traffic, int streams, Line* at, int64_t lines) {
  const int64_t half = lines / 2 / kUnroll * kUnroll;
  const auto read = [&]<int kStreams>() {
    // Streams begin at different places of a page, else they would meet in the same sets of the caches.
    const int64_t piece = (lines / kStreams - (kStreams > 1 ? kSkewLines : 0)) / kUnroll * kUnroll;
    return read_lines<kStreams>(at, piece, lines / kStreams - kSkewLines / 2);
  };
  switch (traffic) {
    case Traffic::read:
      if (streams == 8) return read.template operator()<8>();
      if (streams == 4) return read.template operator()<4>();
      if (streams == 2) return read.template operator()<2>();
      return read.template operator()<1>();
    case Traffic::write:
      write_lines(at, lines);
      return 0;
    case Traffic::update:
      update_lines(at, lines);
      return 0;
    case Traffic::copy:
      copy_lines(at, at + half, half);
      return 0;
    case Traffic::stream_write:
      stream_lines(at, nullptr, lines);
      return 0;
    case Traffic::stream_copy:
      stream_lines(at, at + half, half);
      return 0;
  }
  return 0;
}
