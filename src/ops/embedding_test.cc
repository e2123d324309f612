// T tokens, V vocabulary, D hidden, G gradient groups.
#include "ops/embedding.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct EmbeddingCase {
  int64_t samples, rows_per_sample, width, vocabulary, groups;
};

void PrintTo(const EmbeddingCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows of " << c.width << ", vocabulary " << c.vocabulary
      << ", G " << c.groups;
}

class Embedding : public testing::TestWithParam<EmbeddingCase> {};

TEST_P(Embedding, AgreesWithReference) {
  const auto [samples, rows_per_sample, width, vocabulary, groups] = GetParam();
  const SampleRows rows{samples, rows_per_sample, 2, groups};
  const OpCase op = [&, D = width, V = vocabulary, G = groups](Workbench& bench) {
    const int64_t T = rows.rows();
    const Tensor ids = bench.ints_below("ids", {T}, static_cast<int32_t>(V)), w = bench.wide("w", {V, D});
    const Tensor x = bench.empty({T, D}), dx = bench.normal("dx", {T, D}), dw = bench.wide("dw", {G, V, D});
    embedding_forward(bench.exec, ids, w, x);
    embedding_backward_weight(bench.exec, dx, ids, rows, dw);
    return NamedOutputs{{"x", x}, {"dw", dw}};
  };
  expect_close(tolerance::kEmbeddingWeight, op);
  expect_reference_bits(op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_reference_bf16_bits(op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Embedding,
                         testing::Values(EmbeddingCase{1, 1, 1, 1, 1}, EmbeddingCase{1, 257, 37, 1, 1},
                                         EmbeddingCase{3, 129, 61, 5, 2}, EmbeddingCase{2, 128, 128, 257, 1},
                                         EmbeddingCase{4, 127, 7, 300, 3}, EmbeddingCase{5, 1, 129, 3, 2}));

TEST(Embedding, NamesATokenBeyondTheVocabulary) {
  Workbench bench(Device::reference, DType::f32);
  const Tensor w = bench.zeros({5, 2}), x = bench.empty({3, 2});
  for (int32_t id : {-1, 5}) {
    try {
      embedding_forward(bench.exec, bench.ints({3}, {0, 4, id}), w, x);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()),
                "token " + std::to_string(id) + " at position 2 is beyond the vocabulary of 5");
    }
  }
}

TEST(EmbeddingReference, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const Tensor ids = bench.ints({8}, {0, 3, 3, 1, 0, 0, 3, 2}), w = bench.normal("w", {5, 3});
  const Tensor x = bench.empty({8, 3}), dx = bench.normal("dx", {8, 3}), dw = bench.zeros({1, 5, 3});
  embedding_backward_weight(bench.exec, dx, ids, {2, 4, 0, 1}, dw);
  expect_gradients({{"w", w, dw.row(0)}}, [&] {
    embedding_forward(bench.exec, ids, w, x);
    return dot(x, dx);
  });
}

}  // namespace
}  // namespace moray
