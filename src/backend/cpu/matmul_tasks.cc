#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "backend/cpu/matmul_kernel.h"

namespace moray::cpu {

namespace {

// Grow-only memory of one thread; contents are lost when it grows.
class ScratchBuffer {
 public:
  float* at_least(int64_t floats) {
    if (floats > capacity_) {
      const size_t bytes =
          (static_cast<size_t>(floats) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
      if (memory_ == nullptr) fail("out of memory: {} bytes for a matrix product", bytes);
      capacity_ = floats;
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kAlignment = 4096;
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

int64_t padded(int64_t columns, const RegisterTile& tile) {
  return (columns + tile.columns - 1) / tile.columns * tile.columns;
}

void run_task(const MatmulKernel& kernel, const MatmulTask& task) {
  static thread_local ScratchBuffer resident, next, strip, c;
  const int64_t rows = task.row_end - task.row_begin;
  const int64_t columns = padded(task.column_end - task.column_begin, kernel.tile);
  MatmulScratch scratch;
  if (task.order != MatmulOrder::packed) {
    const bool keep_b = task.order == MatmulOrder::keep_b;
    const int64_t kept = keep_b                                ? columns
                         : task.order == MatmulOrder::few_rows ? padded(rows, kernel.tile)
                                                               : rows;
    const bool sums = task.order == MatmulOrder::few_rows && task.problem->b.k_outer;
    const int64_t strip_floats = sums     ? columns * padded(rows, kernel.tile)
                                 : keep_b ? kernel.tile.rows * task.k
                                          : kernel.tile.columns * task.k;
    scratch.resident = resident.at_least(kept * task.k + kVectorPadding);
    if (keep_b) scratch.next = next.at_least(kept * task.k + kVectorPadding);
    scratch.strip = strip.at_least(strip_floats + kVectorPadding);
  }
  if (task.problem->c.dtype == DType::bf16) scratch.c = c.at_least(rows * columns);
  kernel.run(task, scratch);
}

void append_tasks(const MatmulProblem& problem, const MatmulBlocking& blocking,
                  std::vector<MatmulTask>& tasks) {
  for (int64_t row = 0; row < problem.m; row += blocking.rows)
    for (int64_t column = 0; column < problem.n; column += blocking.columns)
      tasks.push_back({&problem, row, std::min(row + blocking.rows, problem.m), column,
                       std::min(column + blocking.columns, problem.n), blocking.k, blocking.order});
}

void run_tasks(Exec& exec, const MatmulKernel& kernel, const std::vector<MatmulTask>& tasks) {
  exec.pool->for_each(static_cast<int64_t>(tasks.size()),
                      [&](int64_t index, int) { run_task(kernel, tasks[static_cast<size_t>(index)]); });
}

// As much of the operands as is packed at a time, unless a single chunk or a BF16 output, whose sums have no
// other place to wait for the next chunks, takes more.
constexpr int64_t kPackedBytes = 32 << 20;

// A problem of MatmulOrder::packed: all threads pack some chunks, then all multiply them.
class PackedProduct {
 public:
  PackedProduct(Exec& exec, const MatmulKernel& kernel, const MatmulProblem& problem,
                const MatmulBlocking& blocking)
      : exec_(exec),
        kernel_(kernel),
        problem_(problem),
        blocking_(blocking),
        strips_(problem.m, kernel.tile.rows),
        columns_(padded(problem.n, kernel.tile)) {}

  void run() {
    std::vector<PackedChunk>& chunks = chunks_of_thread();
    chunks.clear();
    int64_t floats = 0;
    for_chunks(problem_.blocks, blocking_.k,
               [&](std::span<const KBlock> blocks, int64_t k, std::span<const KBlock>) {
                 const int64_t needed = columns_ * k + a_floats(k);
                 const bool full = (floats + needed) * int64_t{sizeof(float)} > kPackedBytes;
                 if (full && !chunks.empty() && problem_.c.dtype == DType::f32) {
                   pack_and_multiply(floats);
                   chunks.clear();
                   floats = 0;
                 }
                 chunks.push_back({blocks, k});
                 floats += needed;
               });
    pack_and_multiply(floats);
  }

 private:
  static std::vector<PackedChunk>& chunks_of_thread() {
    static thread_local std::vector<PackedChunk> chunks;
    return chunks;
  }

  // Up to a multiple of a vector, so that what follows is aligned.
  int64_t a_floats(int64_t k) const {
    return (strips_.rows * k + kVectorPadding - 1) / kVectorPadding * kVectorPadding +
           strips_.count * kVectorPadding;
  }

  void pack_and_multiply(int64_t floats) {
    static thread_local std::vector<MatmulTask> tasks;
    std::vector<PackedChunk>& chunks = chunks_of_thread();
    const Tensor memory = Tensor::empty(*exec_.allocator, {floats}, DType::f32);
    float* at = memory.data<float>();
    for (PackedChunk& chunk : chunks) {
      chunk.b = at;
      chunk.a = at + columns_ * chunk.k;
      at = chunk.a + a_floats(chunk.k);
    }

    // A part is some hundred thousand elements: many times the cost of handing it out.
    const auto count = static_cast<int64_t>(chunks.size());
    const int64_t parts = std::max(floats / count >> 17, int64_t{exec_.pool->threads()});
    exec_.pool->for_each(parts * count, [&](int64_t index, int) {
      kernel_.pack(problem_, chunks[static_cast<size_t>(index / parts)], index % parts, parts);
    });

    tasks.clear();
    const int64_t row_blocks = (problem_.m + blocking_.rows - 1) / blocking_.rows;
    for (int64_t block = 0; block < row_blocks; ++block)
      for (int64_t column = 0; column < problem_.n; column += blocking_.columns)
        tasks.push_back({&problem_, strips_.begin(strips_.count * block / row_blocks),
                         strips_.begin(strips_.count * (block + 1) / row_blocks), column,
                         std::min(column + blocking_.columns, problem_.n), blocking_.k, blocking_.order,
                         chunks, from_sums_});
    run_tasks(exec_, kernel_, tasks);
    from_sums_ = true;
  }

  Exec& exec_;
  const MatmulKernel& kernel_;
  const MatmulProblem& problem_;
  const MatmulBlocking& blocking_;
  const RowStrips strips_;
  const int64_t columns_;
  bool from_sums_ = false;
};

// A lone problem of MatmulOrder::few_rows: all threads pack A, then all multiply, each columns of its own.
// They are cut evenly, at multiples of what is multiplied together.
void run_few_rows(Exec& exec, const MatmulKernel& kernel, const MatmulProblem& problem, int64_t wanted,
                  std::vector<MatmulTask>& tasks) {
  const int64_t k = problem.k();
  const Tensor memory =
      Tensor::empty(*exec.allocator, {padded(problem.m, kernel.tile) * k + kVectorPadding}, DType::f32);
  const PackedChunk chunk{problem.blocks, k, memory.data<float>(), nullptr};
  const auto parts = static_cast<int64_t>(problem.blocks.size());
  exec.pool->for_each(parts, [&](int64_t part, int) { kernel.pack(problem, chunk, part, parts); });
  const RowStrips strips(problem.n, kernel.tile.rows);
  const int64_t count = std::min(wanted, strips.count);
  const auto column = [&](int64_t task) {
    return std::min(strips.count * task / count * kernel.tile.rows, problem.n);
  };
  for (int64_t task = 0; task < count; ++task)
    tasks.push_back(
        {&problem, 0, problem.m, column(task), column(task + 1), k, MatmulOrder::few_rows, {&chunk, 1}});
  run_tasks(exec, kernel, tasks);
}

}  // namespace

void run_matmuls(Exec& exec, std::span<const MatmulProblem> problems) {
  static thread_local std::vector<MatmulTask> tasks;
  const MatmulKernel kernel = matmul_kernel();
  int64_t total = 0;
  for (const MatmulProblem& problem : problems) total += problem.m * problem.n * problem.k();
  const int64_t wanted = wanted_tasks(total, exec.pool->threads());

  tasks.clear();
  for (const MatmulProblem& problem : problems) {
    if (problem.m == 0 || problem.n == 0) continue;
    const int64_t k = problem.k();
    const double share =
        total > 0 ? static_cast<double>(problem.m * problem.n * k) / static_cast<double>(total) : 0;
    const int64_t part =
        std::max(static_cast<int64_t>(share * static_cast<double>(wanted) + 0.999), int64_t{1});
    // Scales join in register tiles alone: few rows are cut as for a B that must be packed anyway.
    const bool pack_b = problem.b.k_outer || (problem.scaled() && !problem.b.panels);
    const bool broadcast_b =
        !problem.scaled() && !problem.b.panels && (!problem.b.k_outer || problem.b.dtype == DType::f32);
    const MatmulBlocking blocking =
        matmul_blocking(problem.m, problem.n, k, part, {pack_b, broadcast_b}, machine_caches(), kernel.tile);
    if (blocking.order == MatmulOrder::packed)
      PackedProduct(exec, kernel, problem, blocking).run();
    else if (blocking.order == MatmulOrder::few_rows && problems.size() == 1 && blocking.rows == problem.m)
      return run_few_rows(exec, kernel, problem, wanted, tasks);
    else
      append_tasks(problem, blocking, tasks);
  }
  run_tasks(exec, kernel, tasks);
}

}  // namespace moray::cpu
