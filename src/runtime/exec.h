// Exec: where and with what an op runs. Handed to every op and layer.
#pragma once

#include "runtime/finite_finder.h"
#include "runtime/thread_pool.h"
#include "runtime/trace.h"
#include "tensor/tensor.h"

namespace moray {

struct QuantizationCounts;  // ops/quantization_counts.h
struct TensorCore;          // ops/tensor_core.h

// reference: scalar loops over f32 or f64 (bf16 as f32, rounded where it is stored), the readable
// specification. cpu: the SIMD kernels, f32 and bf16.
enum class Device : uint8_t { reference, cpu };
constexpr int kDeviceCount = 2;
const char* device_name(Device device);

struct Exec {
  Device device = Device::cpu;
  ThreadPool* pool = nullptr;
  Allocator* allocator = nullptr;
  // Of activations: f32 or bf16; f64 on the reference device is what gradients are checked in.
  DType dtype = DType::f32;
  Tracer* tracer = nullptr;                    // when set, every op is recorded
  FiniteFinder* finder = nullptr;              // when set, every op's results are examined
  QuantizationCounts* quantization = nullptr;  // when set, what training quantizes is counted

  const TensorCore* tensor_core = nullptr;  // reference device: FP8 products are summed as this one does

  Tensor empty(Shape shape) const { return Tensor::empty(*allocator, shape, dtype); }
  Tensor zeros(Shape shape) const { return Tensor::zeros(*allocator, shape, dtype); }
  // What stays f32 beside bf16 activations: losses, scores and gates of the router, statistics of a row.
  DType wide_dtype() const { return dtype == DType::bf16 ? DType::f32 : dtype; }
  Tensor empty_wide(Shape shape) const { return Tensor::empty(*allocator, shape, wide_dtype()); }
  Tensor empty_i32(Shape shape) const { return Tensor::empty(*allocator, shape, DType::i32); }
};

}  // namespace moray
