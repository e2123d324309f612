#include "backend/cpu/matmul_blocking.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>

namespace moray::cpu {

namespace {

// Packing costs 1/4 to 1 cycle an element of A or B, once a task. Meeting 256 columns, an element of A is
// worth 8 cycles of AVX-512 multiply-adds; meeting 128 rows, one of B is worth 4.
constexpr int64_t kMinColumns = 256;
constexpr int64_t kMinRows = 128;
// Rather four times as much packing than threads without work.
constexpr int64_t kLeastColumns = 64;
constexpr int64_t kLeastRows = 32;
// Larger tasks gain nothing, and the FP32 copy of C that a task keeps for a BF16 output is 1 MB at most.
constexpr int64_t kMaxExtent = 512;
// With fewer rows, writing packed B to L2 and reading it back costs more than walking C along its columns.
constexpr int64_t kRowsToKeepB = 256;
// Waking a thread costs about 2 microseconds, 100 thousand multiply-adds.
constexpr int64_t kMinTaskMultiplyAdds = 1 << 18;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

}  // namespace

const CacheSizes& machine_caches() {
  static const CacheSizes caches = [] {
    CacheSizes found;
    if (const long l1 = ::sysconf(_SC_LEVEL1_DCACHE_SIZE); l1 > 0) found.l1_bytes = l1;
    if (const long l2 = ::sysconf(_SC_LEVEL2_CACHE_SIZE); l2 > 0) found.l2_bytes = l2;
    return found;
  }();
  return caches;
}

std::string MatmulBlocking::to_string() const {
  return fmt::format("tasks of {} x {}, k by {}, keeping {}", rows, columns, k, keep_b ? "B" : "A");
}

int64_t wanted_tasks(int64_t multiply_adds, int threads) {
  if (threads == 1) return 1;
  return std::clamp<int64_t>(multiply_adds / kMinTaskMultiplyAdds, 1, int64_t{4} * threads);
}

MatmulBlocking matmul_blocking(int64_t m, int64_t n, int64_t k, int64_t wanted, const CacheSizes& caches,
                               const RegisterTile& tile) {
  MatmulBlocking blocking;
  const int64_t strip_floats = caches.l1_bytes / 4 / (tile.rows + tile.columns);
  blocking.k = std::min(std::max(strip_floats / kKBlock, int64_t{1}) * kKBlock,
                        round_up(std::max(k, int64_t{1}), kKBlock));

  // Both operands of a task fit into half of L2, whichever stays.
  const int64_t most = std::clamp(caches.l2_bytes / 2 / (4 * blocking.k) / tile.columns * tile.columns,
                                  tile.columns, kMaxExtent);
  const auto cut = [&](int64_t min_rows, int64_t min_columns) {
    int64_t row_blocks = ceil_div(m, most);
    const int64_t column_blocks =
        std::max({std::min(ceil_div(wanted, row_blocks), n / min_columns), ceil_div(n, most), int64_t{1}});
    row_blocks = std::max(row_blocks, std::min(ceil_div(wanted, column_blocks), m / min_rows));
    blocking.rows = ceil_div(m, row_blocks);
    blocking.columns = round_up(ceil_div(n, column_blocks), tile.columns);
  };
  cut(kMinRows, kMinColumns);
  if (blocking.tasks(m, n) < wanted / 4) cut(kLeastRows, kLeastColumns);
  blocking.keep_b = blocking.rows >= kRowsToKeepB;
  return blocking;
}

}  // namespace moray::cpu
