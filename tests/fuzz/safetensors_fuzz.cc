// A safetensors file of any bytes: opened, and every byte of every tensor read, or refused in words.
#include <numeric>

#include "checkpoint/safetensors.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moray;
  const test::MemoryFile file({data, size});
  try {
    const SafetensorsFile opened(file.path());
    for (const StoredTensor& tensor : opened.tensors()) {
      const std::span<const std::byte> bytes = opened.bytes(tensor);
      volatile unsigned sum = std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned s, std::byte b) {
        return s + static_cast<unsigned>(b);
      });
      static_cast<void>(sum);
      Allocator allocator;
      for (DType dtype : {DType::f32, DType::bf16}) try {
          opened.read(tensor.name, allocator, dtype);
        } catch (const Error&) {
        }
    }
  } catch (const Error&) {
  }
  return 0;
}
