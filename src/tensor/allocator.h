// Host memory that is handed out again: after a first step of a given shape, later steps ask the system for
// nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace moray {

class Allocator;

// A reference-counted piece of memory; the count lives in the piece itself.
struct alignas(64) Block {
  Allocator* owner;
  size_t capacity_bytes;
  std::atomic<int64_t> references;

  std::byte* data() { return reinterpret_cast<std::byte*>(this) + sizeof(Block); }
};
static_assert(sizeof(Block) == 64);

class BlockPtr {
 public:
  BlockPtr() = default;
  BlockPtr(std::nullptr_t) {}
  explicit BlockPtr(Block* block) : block_(block) {}  // takes over one reference
  BlockPtr(const BlockPtr& other);
  BlockPtr(BlockPtr&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockPtr& operator=(BlockPtr other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockPtr();

  Block* operator->() const { return block_; }
  bool operator==(std::nullptr_t) const { return block_ == nullptr; }

 private:
  Block* block_ = nullptr;
};

// Keeps freed blocks by size. Thread-safe. Must outlive its blocks (checked).
class Allocator {
 public:
  Allocator() = default;
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  BlockPtr allocate(size_t bytes);  // uninitialised, aligned to 64 bytes; throws Error when memory runs out

  size_t system_allocations() const { return system_allocations_; }  // how often the system was asked
  size_t live_bytes() const { return live_bytes_; }                  // handed out now
  size_t peak_bytes() const { return peak_bytes_; }                  // the most ever handed out at once
  size_t held_bytes() const { return held_bytes_; }                  // taken from the system

 private:
  friend class BlockPtr;
  void release(Block* block);

  std::mutex mutex_;
  std::map<size_t, std::vector<Block*>> free_;  // by capacity
  std::atomic<size_t> system_allocations_ = 0, live_bytes_ = 0, peak_bytes_ = 0, held_bytes_ = 0;
};

}  // namespace moray
