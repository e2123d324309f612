// How kernels cut their work for the pool. Pieces depend on the shape alone.
#pragma once

#include <algorithm>
#include <cstdint>

namespace moray::cpu {

// A piece takes about 10 µs on one core; anything smaller than two pieces is not worth waking a second thread
// for.
constexpr int64_t kPieceElements = 32768;

// How many rows of `width` elements make a piece.
constexpr int64_t rows_per_piece(int64_t width) {
  return std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, width));
}

// Sums over rows are spread over columns, each thread walking all rows: a piece of columns is whole cache
// lines, at least kMinColumns wide (256 bytes of a row), and holds about kPieceElements.
constexpr int64_t kMinColumns = 64;
constexpr int64_t columns_per_piece(int64_t rows) {
  const int64_t columns = kPieceElements / std::max<int64_t>(1, rows);
  return std::max(kMinColumns, columns / 16 * 16);
}

// Blocks of rows inside which gradients and balance statistics are summed (docs/numerics.md).
constexpr int64_t kRowBlock = 128;

}  // namespace moray::cpu
