#include "train/checkpoint_writer.h"

namespace moray {

namespace {
void copy_tensors(Allocator& allocator, std::vector<NamedTensor>& tensors) {
  for (NamedTensor& named : tensors) {
    const Tensor copy = Tensor::empty(allocator, named.tensor.shape(), named.tensor.dtype());
    copy.copy_from(named.tensor);
    named.tensor = copy;
  }
}
}  // namespace

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::save(Allocator& allocator, int64_t step, CheckpointContent content) {
  wait();
  copy_tensors(allocator, content.model);
  for (StateGroup& group : content.state) copy_tensors(allocator, group.tensors);
  thread_ = std::thread([this, step, kept = std::move(content)] {
    try {
      written_ = save_checkpoint(parent_, step, kept);
      remove_old_checkpoints(parent_, keep_last_);
    } catch (...) {
      failure_ = std::current_exception();
    }
  });
}

fs::path CheckpointWriter::wait() {
  if (thread_.joinable()) thread_.join();
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  return written_;
}

}  // namespace moray
