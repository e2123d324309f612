// How a matrix product is cut: a pure function of its shape, the threads and the caches. Results do not
// depend on it (matmul_kernel.h), only speed does.
#pragma once

#include <cstdint>
#include <string>

#include "backend/cpu/caches.h"

namespace moray::cpu {

// The canonical k-block (docs/numerics.md): partial sums are joined every 128 steps of k.
constexpr int64_t kKBlock = 128;

// The register tile of an instruction set: rows × columns of outputs kept in registers over a k-block.
struct RegisterTile {
  int64_t rows = 6;
  int64_t columns = 16;
};

// What a task does with its operands: packs one of them into half of L2 and meets it with strips of the
// other, packed one at a time into L1; or, where rows are few, packs A whole and takes B as it lies
// (matmul_few_rows-inl.h); or, where many tasks meet the same operands, reads them from where all
// threads packed them before.
enum class MatmulOrder { keep_a, keep_b, few_rows, packed };

struct MatmulBlocking {
  int64_t rows = 0;     // of C in one task
  int64_t columns = 0;  // of C in one task, a multiple of the register tile's columns
  int64_t k = 0;        // at once, a multiple of 128: strips of A and B of a register tile fit in L1 together
  MatmulOrder order = MatmulOrder::keep_a;

  int64_t tasks(int64_t m, int64_t n) const {
    return ((m + rows - 1) / rows) * ((n + columns - 1) / columns);
  }
  std::string to_string() const;  // "tasks of 512 x 256, k by 256, keeping B"
};

// How B lies: k_outer as in MatmulOperand; broadcast: whether few_rows can take it as it lies.
struct BForm {
  bool k_outer = false;
  bool broadcast = true;
};

// C is m × n over k; `wanted_tasks` is how many tasks would keep the threads evenly busy.
MatmulBlocking matmul_blocking(int64_t m, int64_t n, int64_t k, int64_t wanted_tasks, BForm b,
                               const CacheSizes& caches, const RegisterTile& tile);

// How many tasks a product of `multiply_adds` in all is worth on `threads` threads: four a thread so that a
// slow one holds up the others for a quarter of its time at most, but none below the cost of waking a thread.
int64_t wanted_tasks(int64_t multiply_adds, int threads);

}  // namespace moray::cpu
