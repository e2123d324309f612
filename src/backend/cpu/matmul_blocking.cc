#include "backend/cpu/matmul_blocking.h"

#include <fmt/core.h>

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
// With fewer rows, reading B is most of the work.
constexpr int64_t kManyRows = 256;
// With fewer k, C is most of what is read and written, and packing a small part.
constexpr int64_t kManyK = 256;
// With fewer still, most lanes over rows would stay empty.
constexpr int64_t kRowsToBroadcastB = 8;
// Waking a thread costs about 2 microseconds, 100 thousand multiply-adds.
constexpr int64_t kMinTaskMultiplyAdds = 1 << 18;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// A slow one holds up the others for a quarter of its time at most.
constexpr int64_t kTasksAThread = 4;

// A strip of A in most of L1, the task's columns of B in half of L2; both come from where they were packed,
// so that rows can be as few as keep the threads busy.
MatmulBlocking packed_blocking(int64_t m, int64_t n, int64_t k, int64_t wanted, const CacheSizes& caches,
                               const RegisterTile& tile) {
  MatmulBlocking blocking;
  blocking.order = MatmulOrder::packed;
  const int64_t strip_k = caches.l1_bytes * 7 / 8 / (4 * tile.rows);
  blocking.k = std::min(std::max(strip_k / kKBlock, int64_t{1}) * kKBlock, round_up(k, kKBlock));
  const int64_t most_columns = std::clamp(
      caches.l2_bytes / 2 / (4 * blocking.k) / tile.columns * tile.columns, tile.columns, kMaxExtent);
  const int64_t column_blocks = ceil_div(n, most_columns),
                threads = std::max(wanted / kTasksAThread, int64_t{1});
  int64_t row_blocks =
      std::clamp(ceil_div(wanted, column_blocks), int64_t{1}, std::max(m / kMinRows, int64_t{1}));
  while (row_blocks * column_blocks % threads != 0 && row_blocks * column_blocks < 2 * wanted &&
         row_blocks < m / kMinRows)
    ++row_blocks;
  blocking.rows = ceil_div(m, row_blocks);
  blocking.columns = round_up(ceil_div(n, column_blocks), tile.columns);
  return blocking;
}

}  // namespace

const char* order_name(MatmulOrder order) {
  switch (order) {
    case MatmulOrder::keep_a:
      return "keeping A";
    case MatmulOrder::keep_b:
      return "keeping B";
    case MatmulOrder::few_rows:
      return "few rows";
    case MatmulOrder::packed:
      return "packed once";
  }
  return "";
}

std::string MatmulBlocking::to_string() const {
  return fmt::format("tasks of {} x {}, k by {}, {}", rows, columns, k, order_name(order));
}

int64_t wanted_tasks(int64_t multiply_adds, int threads) {
  if (threads == 1) return 1;
  return std::clamp<int64_t>(multiply_adds / kMinTaskMultiplyAdds, 1, kTasksAThread * threads);
}

MatmulBlocking matmul_blocking(int64_t m, int64_t n, int64_t k, int64_t wanted, BForm b,
                               const CacheSizes& caches, const RegisterTile& tile) {
  if (m >= kManyRows && k >= kManyK) {
    MatmulBlocking packed = packed_blocking(m, n, k, wanted, caches, tile);
    if (packed.tasks(m, n) == 1) packed.order = MatmulOrder::keep_b;  // nobody to share with
    return packed;
  }
  MatmulBlocking blocking;
  const int64_t strip_floats = caches.l1_bytes / 4 / (tile.rows + tile.columns);
  blocking.k = std::min(std::max(strip_floats / kKBlock, int64_t{1}) * kKBlock,
                        round_up(std::max(k, int64_t{1}), kKBlock));

  // Both operands of a task fit into half of L2, whichever stays.
  const int64_t most = std::clamp(caches.l2_bytes / 2 / (4 * blocking.k) / tile.columns * tile.columns,
                                  tile.columns, kMaxExtent);
  // With one k-block, as in the weight gradient of an expert, C is most of what is read and written: rather
  // along its rows.
  const int64_t most_columns =
      k <= kKBlock ? std::max(caches.l2_bytes / 2 / (4 * kKBlock) / tile.columns * tile.columns, tile.columns)
                   : most;
  const auto cut = [&](int64_t min_rows, int64_t min_columns) {
    int64_t row_blocks = ceil_div(m, most);
    const int64_t column_blocks = std::max(
        {std::min(ceil_div(wanted, row_blocks), n / min_columns), ceil_div(n, most_columns), int64_t{1}});
    row_blocks = std::max(row_blocks, std::min(ceil_div(wanted, column_blocks), m / min_rows));
    // Nine tasks for two threads would leave one of them without work for a tenth of the time.
    const int64_t threads = std::max(wanted / kTasksAThread, int64_t{1});
    while (row_blocks * column_blocks < 2 * wanted && row_blocks * column_blocks % threads != 0 &&
           row_blocks < m / min_rows)
      ++row_blocks;
    blocking.rows = ceil_div(m, row_blocks);
    blocking.columns = round_up(ceil_div(n, column_blocks), tile.columns);
  };
  cut(kMinRows, kMinColumns);
  if (blocking.tasks(m, n) < wanted / kTasksAThread) cut(kLeastRows, kLeastColumns);
  if (blocking.rows >= kManyRows) {
    blocking.order = MatmulOrder::keep_b;
  } else if (b.broadcast && blocking.rows >= kRowsToBroadcastB &&
             round_up(blocking.rows, tile.columns) * k * 4 <= caches.l2_bytes / 2) {
    blocking.order = MatmulOrder::few_rows;
    blocking.k = round_up(k, kKBlock);
  } else if (b.k_outer) {
    // Rows of a k-outer B are read along: one k-block of them in an eighth of L2, while the next is on its
    // way.
    blocking.order = MatmulOrder::keep_b;
    blocking.k = kKBlock;
    blocking.columns = std::clamp(caches.l2_bytes / 8 / (4 * blocking.k) / tile.columns * tile.columns,
                                  tile.columns, blocking.columns);
  }
  return blocking;
}

}  // namespace moray::cpu
