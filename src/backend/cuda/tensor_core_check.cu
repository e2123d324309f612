// Holds ops/tensor_core.h's scalar model against the tensor cores of the GPU it runs on, to the bit: wgmma over
// FP8 codes (64 rows × 8 columns, 32 products a step), on ops/tensor_core_cases.h's operands.
//
//   tensor_core_check            a line a kind of operands; ends with 1 where a sum differs
//   tensor_core_check GOLDEN     also writes the file that the model's test holds it against on machines without a
//                                GPU: for each kind 64 sums of its first case, (row, row mod 8), as their bits
//
// scripts/hopper_check.sh builds and runs it.
#include <cuda_runtime.h>

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "ops/tensor_core_cases.h"

namespace {

using namespace moray::tensor_core_cases;

constexpr int kStep = 32;  // K of one wgmma

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "tensor_core_check: %s\n", cudaGetErrorString(status));
  std::exit(2);
}

// A shared-memory matrix descriptor without swizzling: core matrices of 8 rows × 16 bytes, those of the same
// rows 128 bytes apart, the next 8 rows 256 bytes further.
__device__ uint64_t descriptor(const void* shared) {
  const uint64_t address = __cvta_generic_to_shared(shared);
  return (address & 0x3ffff) >> 4 | uint64_t{128 >> 4} << 16 | uint64_t{256 >> 4} << 32;
}

// One wgmma, waited for.
#define MORAY_WGMMA(TYPES)                                                                          \
  asm volatile(                                                                                     \
      "wgmma.fence.sync.aligned;\n"                                                                 \
      "wgmma.mma_async.sync.aligned.m64n8k32.f32." TYPES " {%0, %1, %2, %3}, %4, %5, 1, 1, 1;\n"     \
      "wgmma.commit_group.sync.aligned;\n"                                                          \
      "wgmma.wait_group.sync.aligned 0;"                                                            \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                              \
      : "l"(descriptor(a_shared)), "l"(descriptor(b_shared))                                        \
      : "memory")

// c[64][8] += a[64][k] · b[8][k]ᵀ, one block of 128 threads a case.
__global__ void multiply(const uint8_t* a, const uint8_t* b, float* c, int k, Format a_format,
                         Format b_format) {
  __shared__ alignas(128) uint8_t a_shared[kRows * kStep], b_shared[kColumns * kStep];
  a += static_cast<size_t>(blockIdx.x) * kRows * k;
  b += static_cast<size_t>(blockIdx.x) * kColumns * k;
  c += static_cast<size_t>(blockIdx.x) * kRows * kColumns;
  const int thread = threadIdx.x, row = thread / 32 * 16 + thread % 32 / 4, column = thread % 4 * 2;
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = c[(row + i / 2 * 8) * kColumns + column + i % 2];
  const auto place = [](int r, int j) { return r / 8 * 256 + j / 16 * 128 + r % 8 * 16 + j % 16; };
  for (int first = 0; first < k; first += kStep) {
    for (int i = thread; i < kRows * kStep; i += 128)
      a_shared[place(i / kStep, i % kStep)] = a[i / kStep * k + first + i % kStep];
    for (int i = thread; i < kColumns * kStep; i += 128)
      b_shared[place(i / kStep, i % kStep)] = b[i / kStep * k + first + i % kStep];
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (a_format == Format::e4m3 && b_format == Format::e4m3)
      MORAY_WGMMA("e4m3.e4m3");
    else if (a_format == Format::e5m2 && b_format == Format::e4m3)
      MORAY_WGMMA("e5m2.e4m3");
    else if (a_format == Format::e4m3)
      MORAY_WGMMA("e4m3.e5m2");
    else
      MORAY_WGMMA("e5m2.e5m2");
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * kColumns + column + i % 2] = d[i];
}

// On the GPU: the cases' sums, [cases, 64, 8].
std::vector<float> multiply_all(const Kind& kind, const std::vector<Case>& cases) {
  std::vector<uint8_t> a_codes, b_codes;
  std::vector<float> sums;
  for (const Case& drawn : cases) {
    a_codes.insert(a_codes.end(), drawn.a.begin(), drawn.a.end());
    b_codes.insert(b_codes.end(), drawn.b.begin(), drawn.b.end());
    sums.insert(sums.end(), drawn.sums.begin(), drawn.sums.end());
  }
  uint8_t *a, *b;
  float* c;
  const size_t sum_bytes = sums.size() * sizeof(float);
  check(cudaMalloc(&a, a_codes.size()));
  check(cudaMalloc(&b, b_codes.size()));
  check(cudaMalloc(&c, sum_bytes));
  check(cudaMemcpy(a, a_codes.data(), a_codes.size(), cudaMemcpyHostToDevice));
  check(cudaMemcpy(b, b_codes.data(), b_codes.size(), cudaMemcpyHostToDevice));
  check(cudaMemcpy(c, sums.data(), sum_bytes, cudaMemcpyHostToDevice));
  multiply<<<static_cast<unsigned>(cases.size()), 128>>>(a, b, c, kind.k, kind.a.format, kind.b.format);
  check(cudaGetLastError());
  check(cudaMemcpy(sums.data(), c, sum_bytes, cudaMemcpyDeviceToHost));
  check(cudaFree(a));
  check(cudaFree(b));
  check(cudaFree(c));
  return sums;
}

// How many of a case's sums are not the model's.
int differences(const Kind& kind, const Case& drawn, const float* sums, int bits) {
  const ModelSums model(kind, drawn);
  int differ = 0;
  for (int i = 0; i < kRows * kColumns; ++i) differ += model.at(i / kColumns, i % kColumns, bits) != sums[i];
  return differ;
}

}  // namespace

int main(int argc, char** argv) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, compute capability %d.%d: wgmma sums that differ from the model with 14 bits, and with 13 and 15\n",
              properties.name, properties.major, properties.minor);
  std::FILE* golden = argc > 1 ? std::fopen(argv[1], "w") : nullptr;
  int all = 0;
  for (size_t n = 0; n < kinds().size(); ++n) {
    const Kind& kind = kinds()[n];
    std::vector<Case> cases;
    for (int i = 0; i < (kind.k > 128 ? 8 : 200); ++i) cases.push_back(draw(n, i));
    const std::vector<float> sums = multiply_all(kind, cases);
    int differ[3] = {};
    for (int bits = 13; bits <= 15; ++bits)
      for (size_t i = 0; i < cases.size(); ++i)
        differ[bits - 13] += differences(kind, cases[i], sums.data() + i * kRows * kColumns, bits);
    std::printf("%-36s %6zu sums: %d differ (13 bits: %d, 15 bits: %d)\n", kind.name, sums.size(), differ[1],
                differ[0], differ[2]);
    all += differ[1];
    if (golden == nullptr) continue;
    for (size_t row = 0; row < kRows; ++row)
      std::fprintf(golden, "%08x%c", std::bit_cast<uint32_t>(sums[row * kColumns + row % kColumns]),
                   row % 8 == 7 ? '\n' : ' ');
  }
  if (golden != nullptr) std::fclose(golden);
  std::printf(all == 0 ? "every sum is the model's, to the bit\n" : "%d sums are not the model's\n", all);
  return all == 0 ? 0 : 1;
}
