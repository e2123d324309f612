#include "tensor/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/error.h"

namespace moray {

namespace {
constexpr size_t kHugePageBytes = size_t{2} << 20;

// Sizes step by 64 bytes up to 4 KiB and by 1/8 of their power of two above: few bins, at most 12.5% unused.
size_t capacity_for(size_t bytes) {
  size_t step = 64;
  if (bytes > 4096) {
    size_t power = 4096;
    while (power < bytes) power *= 2;
    step = power / 16;
  }
  return std::max<size_t>(step, (bytes + step - 1) / step * step);
}

size_t machine_bytes() {
  static const size_t bytes =
      static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}
}  // namespace

BlockPtr::BlockPtr(const BlockPtr& other) : block_(other.block_) {
  if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
}

BlockPtr::~BlockPtr() {
  if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1)
    block_->owner->release(block_);
}

Allocator::~Allocator() {
  MORAY_CHECK(live_bytes_ == 0, "{} bytes outlive their allocator", live_bytes_.load());
  for (auto& [capacity, blocks] : free_)
    for (Block* block : blocks) std::free(block);
}

BlockPtr Allocator::allocate(size_t bytes) {
  const size_t capacity = capacity_for(bytes);
  Block* block = nullptr;
  {
    std::lock_guard lock(mutex_);
    auto& bin = free_[capacity];
    if (!bin.empty()) {
      block = bin.back();
      bin.pop_back();
    } else {
      bin.reserve(16);
    }
  }
  if (block == nullptr) {
    const size_t total = capacity + sizeof(Block);
    const bool huge = total >= 2 * kHugePageBytes;
    const size_t alignment = huge ? kHugePageBytes : 64;
    // A system that promises more than it has would grant the memory and later kill the process that uses it.
    const bool beyond_machine = total > machine_bytes() - std::min(machine_bytes(), held_bytes_.load());
    void* memory = beyond_machine
                       ? nullptr
                       : std::aligned_alloc(alignment, (total + alignment - 1) / alignment * alignment);
    if (memory == nullptr)
      fail("out of memory: {} bytes asked for, {} already held, the machine has {}", total,
           held_bytes_.load(), machine_bytes());
    if (huge) ::madvise(memory, total, MADV_HUGEPAGE);
    block = new (memory) Block{this, capacity, {0}};
    ++system_allocations_;
    held_bytes_ += capacity;
  }
  block->references.store(1, std::memory_order_relaxed);
  const size_t live = live_bytes_.fetch_add(capacity) + capacity;
  size_t peak = peak_bytes_;
  while (live > peak && !peak_bytes_.compare_exchange_weak(peak, live)) {
  }
  return BlockPtr(block);
}

void Allocator::release(Block* block) {
  live_bytes_ -= block->capacity_bytes;
  std::lock_guard lock(mutex_);
  free_[block->capacity_bytes].push_back(block);
}

}  // namespace moray
