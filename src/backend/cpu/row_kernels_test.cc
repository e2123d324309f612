// The row kernels (norm, rope, SwiGLU, moves, sums, AdamW, embedding) against plain double-precision
// computations, and bit for bit across instruction sets, threads and splits of the batch.
#include "backend/cpu/kernels_test.h"
#include "ops/adamw.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace moray::cpu::test {
namespace {

constexpr double kEps = 1e-6;

double at(const Tensor& x, int64_t i) {
  return x.data<float>()[i];
}

// Widths below, at and beyond the vectors' and the virtual lanes' sizes.
constexpr int64_t kWidths[] = {1, 7, 16, 37, 128, 515};

std::vector<Tensor> norm(Exec& exec, const Tensor& x, const Tensor& w, const Tensor& dy,
                         const SampleRows& rows) {
  const Tensor y = zeros(x.shape()), rstd = zeros({x.extent(0)}), dx = zeros(x.shape());
  const Tensor dx_added = random_tensor(x.shape(), 5),
               dw = random_tensor({rows.gradient_groups, x.extent(1)}, 6);
  rms_norm_forward(exec, x, w, kEps, y, rstd);
  rms_norm_backward_input(exec, dy, x, w, rstd, dx);
  rms_norm_backward_input(exec, dy, x, w, rstd, dx_added, true);
  rms_norm_backward_weight(exec, dy, x, rstd, rows, dw);
  return {y, dx, dx_added, dw};
}

TEST(RmsNorm, AgainstDouble) {
  for (int64_t D : kWidths) {
    const SampleRows rows = {3, 150, 1, 2};
    const int64_t T = rows.rows();
    const Tensor x = random_tensor({T, D}, 1), w = random_tensor({D}, 2), dy = random_tensor({T, D}, 3);
    const std::vector<Tensor> got = same_everywhere([&](Exec& exec) { return norm(exec, x, w, dy, rows); });
    const Tensor old_dx = random_tensor({T, D}, 5), old_dw = random_tensor({2, D}, 6);
    std::vector<double> y, dx, dx_added, dw(static_cast<size_t>(2 * D));
    for (int64_t i = 0; i < 2 * D; ++i) dw[static_cast<size_t>(i)] = at(old_dw, i);
    for (int64_t t = 0; t < T; ++t) {
      double squares = 0, dot = 0;
      for (int64_t i = t * D; i < (t + 1) * D; ++i) {
        squares += at(x, i) * at(x, i);
        dot += at(dy, i) * at(w, i - t * D) * at(x, i);
      }
      const double rstd = 1 / std::sqrt(squares / static_cast<double>(D) + kEps);
      for (int64_t i = t * D; i < (t + 1) * D; ++i) {
        const int64_t group = rows.group(t / rows.rows_per_sample);
        y.push_back(at(x, i) * rstd * at(w, i - t * D));
        dx.push_back(rstd *
                     (at(dy, i) * at(w, i - t * D) - at(x, i) * rstd * rstd * dot / static_cast<double>(D)));
        dx_added.push_back(at(old_dx, i) + dx.back());
        dw[static_cast<size_t>(group * D + i - t * D)] += at(dy, i) * at(x, i) * rstd;
      }
    }
    EXPECT_LE(relative_error(got[0], y), 1e-6) << D;
    if (D > 1) {  // of one column, dx is what rounding leaves
      EXPECT_LE(relative_error(got[1], dx), 1e-6) << D;
    }
    EXPECT_LE(relative_error(got[2], dx_added), 1e-6) << D;
    EXPECT_LE(relative_error(got[3], dw), 1e-6) << D;
  }
}

// A lane that a sum's last vector does not reach keeps its −0, whatever the vector's length.
TEST(SumInLanes, LanesBeyondTheEndAreLeftAlone) {
  for (int64_t width = 1; width <= 49; ++width) {
    const auto all = [&](float value) {
      const Tensor x = zeros({1, width});
      std::fill_n(x.data<float>(), width, value);
      return x;
    };
    const Tensor dh = all(-1e-30f), gate = all(1e-10f), up = all(1e-10f);  // dh·h underflows to −0
    const Tensor sum = same_everywhere([&](Exec& exec) {
      const Tensor dgate = zeros(dh.shape()), dup = zeros(dh.shape()), h = zeros(dh.shape());
      const Tensor router_gate = random_tensor({1}, 1), drouter_gate = zeros({1});
      swiglu_backward(exec, dh, gate, up, router_gate, dgate, dup, h, drouter_gate);
      return std::vector{drouter_gate};
    })[0];
    EXPECT_EQ(at(sum, 0), 0) << width;
    EXPECT_EQ(std::signbit(sum.data<float>()[0]), width >= 16) << width;  // fewer leave lanes at their +0
  }
}

TEST(RmsNorm, SamplesAddToTheirGroupsInOrderWhateverTheSplit) {
  register_kernels();
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  const int64_t T = 140, D = 70;
  const Tensor x = random_tensor({4 * T, D}, 1), dy = random_tensor({4 * T, D}, 2),
               rstd = random_tensor({4 * T}, 3);
  const Tensor whole = zeros({2, D}), split = zeros({2, D});
  rms_norm_backward_weight(exec, dy, x, rstd, {4, T, 0, 2}, whole);
  for (int64_t s = 0; s < 4; ++s)
    rms_norm_backward_weight(exec, dy.rows(s * T, (s + 1) * T), x.rows(s * T, (s + 1) * T),
                             rstd.rows(s * T, (s + 1) * T), {1, T, s, 2}, split);
  EXPECT_TRUE(same_bits(whole, split));
}

TEST(Rope, TurnsPairsAndBack) {
  for (int64_t pairs : {1, 3, 8, 32, 37}) {
    const int64_t T = 40, P = 20, heads = 3, width = 2 * pairs + 5;
    const Tensor x = random_tensor({T, heads * width}, 1);
    const Tensor angle = random_tensor({P, pairs}, 2), c = zeros({P, pairs}), s = zeros({P, pairs});
    for (int64_t i = 0; i < angle.elements(); ++i) {
      c.data<float>()[i] = static_cast<float>(std::cos(at(angle, i)));
      s.data<float>()[i] = static_cast<float>(std::sin(at(angle, i)));
    }
    const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
      const Tensor turned = copy_of(x);
      rope_apply(exec, turned, {heads, width}, c, s, P);
      const Tensor back = copy_of(turned);
      rope_apply(exec, back, {heads, width}, c, s, P, true);
      return std::vector<Tensor>{turned, back};
    });
    std::vector<double> turned, same;
    for (int64_t i = 0; i < x.elements(); ++i) {
      const int64_t in_head = i % width, j = in_head - 5, row = i / (heads * width) % P;
      same.push_back(at(x, i));
      if (j < 0) {
        turned.push_back(at(x, i));
      } else {
        const double cosine = at(c, row * pairs + j / 2), sine = at(s, row * pairs + j / 2);
        turned.push_back(j % 2 == 0 ? at(x, i) * cosine - at(x, i + 1) * sine
                                    : at(x, i - 1) * sine + at(x, i) * cosine);
      }
    }
    EXPECT_LE(relative_error(got[0], turned), 2e-7);
    EXPECT_LE(relative_error(got[1], same), 4e-7);
  }
}

TEST(Swiglu, AgainstDouble) {
  for (int64_t F : kWidths)
    for (bool routed : {false, true}) {
      const int64_t R = 77;
      const Tensor gate = random_tensor({R, F}, 1, 3), up = random_tensor({R, F}, 2),
                   dh = random_tensor({R, F}, 3);
      const Tensor router_gate = random_tensor({R}, 4);
      const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
        const Tensor h = zeros({R, F}), dgate = zeros({R, F}), dup = zeros({R, F}), again = zeros({R, F});
        const Tensor drouter = zeros({R});
        swiglu_forward(exec, gate, up, h);
        swiglu_backward(exec, dh, gate, up, routed ? router_gate : Tensor(), dgate, dup, again,
                        routed ? drouter : Tensor());
        return std::vector<Tensor>{h, dgate, dup, again, drouter};
      });
      std::vector<double> h, dgate, dup, again, drouter(static_cast<size_t>(R));
      for (int64_t i = 0; i < R * F; ++i) {
        const double g = at(gate, i), sigmoid = 1 / (1 + std::exp(-g)),
                     r = routed ? at(router_gate, i / F) : 1;
        h.push_back(g * sigmoid * at(up, i));
        dgate.push_back(r * at(dh, i) * at(up, i) * sigmoid * (1 + g * (1 - sigmoid)));
        dup.push_back(r * at(dh, i) * g * sigmoid);
        again.push_back(r * h.back());
        if (routed) drouter[static_cast<size_t>(i / F)] += at(dh, i) * h.back();
      }
      const std::vector<double>* wanted[] = {&h, &dgate, &dup, &again, &drouter};
      for (size_t i = 0; i < 5; ++i)
        EXPECT_LE(relative_error(got[i], *wanted[i]), 1e-6) << i << " width " << F;
    }
}

TEST(Elementwise, AddConcatSplit) {
  const Tensor a = random_tensor({300, 37}, 1), b = random_tensor({300, 21}, 2),
               c = random_tensor({300, 37}, 3);
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
    const Tensor both = zeros({300, 58}), first = zeros(a.shape()), second = zeros(b.shape()),
                 sum = copy_of(c);
    concat_columns(exec, a, b, both);
    split_columns(exec, both, first, second);
    add(exec, a, sum, sum);
    return std::vector<Tensor>{both, first, second, sum};
  });
  EXPECT_TRUE(same_bits(got[1], a));
  EXPECT_TRUE(same_bits(got[2], b));
  EXPECT_EQ(at(got[0], 58 * 7 + 36), at(a, 37 * 7 + 36));
  EXPECT_EQ(at(got[0], 58 * 7 + 37), at(b, 21 * 7));
  for (int64_t i = 0; i < a.elements(); ++i)
    ASSERT_EQ(at(got[3], i), a.data<float>()[i] + c.data<float>()[i]);
}

TEST(AdamW, AgainstDouble) {
  const AdamWStep step = {1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 0.5};
  for (int64_t n : {1, 31, 100003}) {
    const Tensor g = random_tensor({n}, 1), w0 = random_tensor({n}, 2), m0 = random_tensor({n}, 3, 0.1);
    const Tensor v0 = random_tensor({n}, 4, 0.1);
    for (float& v : v0.span<float>()) v *= v;
    const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
      const Tensor w = copy_of(w0), m = copy_of(m0), v = copy_of(v0);
      adamw_update(exec, step, g, w, m, v);
      return std::vector<Tensor>{w, m, v};
    });
    std::vector<double> w, m, v;
    for (int64_t i = 0; i < n; ++i) {
      const double gradient = 0.5 * at(g, i);
      m.push_back(0.9 * at(m0, i) + 0.1 * gradient);
      v.push_back(0.95 * at(v0, i) + 0.05 * gradient * gradient);
      const double m_hat = m.back() / (1 - std::pow(0.9, 3)), v_hat = v.back() / (1 - std::pow(0.95, 3));
      w.push_back(at(w0, i) - 1e-2 * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.1 * at(w0, i)));
    }
    EXPECT_LE(relative_error(got[0], w), 1e-6);
    EXPECT_LE(relative_error(got[1], m), 1e-6);
    EXPECT_LE(relative_error(got[2], v), 1e-6);
  }
}

// bf16 moments: the f32 update's moments, rounded; the weights are the same as with f32 storage of the same
// values.
TEST(AdamW, Bf16MomentsRoundToNearestEven) {
  const int64_t n = 1003;
  const AdamWStep step = {1e-2, 0.9, 0.95, 1e-8, 0.1, 3, 1};
  const Tensor g = random_tensor({n}, 1), w0 = random_tensor({n}, 2);
  g.data<float>()[5] = std::nanf("");
  const auto moments = [&](DType dtype) {
    const Tensor x = Tensor::empty(allocator(), {n}, dtype);
    for (int64_t i = 0; i < n; ++i) {
      const bf16 value = to_bf16(0.001f * static_cast<float>(i));
      if (dtype == DType::bf16)
        x.data<bf16>()[i] = value;
      else
        x.data<float>()[i] = to_float(value);
    }
    return x;
  };
  const auto run = [&](DType dtype) {
    return same_everywhere([&](Exec& exec) {
      const Tensor w = copy_of(w0), m = moments(dtype), v = moments(dtype);
      adamw_update(exec, step, g, w, m, v);
      return std::vector<Tensor>{w, m, v};
    });
  };
  const std::vector<Tensor> wide = run(DType::f32), narrow = run(DType::bf16);
  EXPECT_TRUE(same_bits(wide[0], narrow[0]));
  for (size_t which : {1, 2})
    for (int64_t i = 0; i < n; ++i)
      ASSERT_EQ(narrow[which].data<bf16>()[i].bits, to_bf16(wide[which].data<float>()[i]).bits) << i;
}

TEST(AdamW, SquaresAndAverages) {
  const int64_t n = 3 * kNormBlock + 777;
  const Tensor x = random_tensor({n}, 1), average = random_tensor({n}, 2);
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
    const Tensor squares = zeros({4}), ema = copy_of(average);
    squares_of_blocks(exec, x, squares);
    ema_update(exec, x, 0.99, ema);
    return std::vector<Tensor>{squares, ema};
  });
  std::vector<double> squares(4), ema;
  for (int64_t i = 0; i < n; ++i) {
    squares[static_cast<size_t>(i / kNormBlock)] += at(x, i) * at(x, i);
    ema.push_back(at(average, i) + 0.01 * (at(x, i) - at(average, i)));
  }
  EXPECT_LE(relative_error(got[0], squares), 1e-6);
  EXPECT_LE(relative_error(got[1], ema), 1e-6);
  // The documented order, bit for bit: lane j takes elements j, j + 16, ... of the block, lanes join by
  // halves.
  float lane[16] = {};
  for (int64_t i = 0; i < 777; ++i) {
    const float value = x.data<float>()[3 * kNormBlock + i];
    lane[i % 16] = std::fma(value, value, lane[i % 16]);
  }
  for (int half = 8; half >= 1; half /= 2)
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  EXPECT_EQ(got[0].data<float>()[3], lane[0]);
}

TEST(Embedding, RowsAndGradientsInOrder) {
  const int64_t V = 23, D = 75, T = 300;
  const SampleRows rows = {2, T, 1, 2};
  std::vector<int32_t> ids;
  for (uint64_t t = 0; t < 2 * T; ++t) ids.push_back(static_cast<int32_t>(mix64(t) % V));
  const Tensor ids_T = i32_tensor(ids, {2 * T}), w = random_tensor({V, D}, 1),
               dx = random_tensor({2 * T, D}, 2);
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
    const Tensor x = zeros({2 * T, D}), dw = zeros({2, V, D});
    embedding_forward(exec, ids_T, w, x);
    embedding_backward_weight(exec, dx, ids_T, rows, dw);
    return std::vector<Tensor>{x, dw};
  });
  // The canonical order in f32: rows of one id inside a block of 128 first, then blocks in order.
  const Tensor dw = zeros({2, V, D});
  for (int64_t sample = 0; sample < 2; ++sample)
    for (int64_t block = 0; block < T; block += 128)
      for (int64_t id = 0; id < V; ++id)
        for (int64_t i = 0; i < D; ++i) {
          float part = 0;
          for (int64_t t = sample * T + block; t < sample * T + std::min(block + 128, T); ++t)
            if (ids[static_cast<size_t>(t)] == id) part += dx.data<float>()[t * D + i];
          dw.data<float>()[(rows.group(sample) * V + id) * D + i] += part;
        }
  EXPECT_TRUE(same_bits(got[1], dw));
  for (int64_t t = 0; t < 2 * T; ++t)
    EXPECT_EQ(
        std::memcmp(got[0].data<float>() + t * D, w.data<float>() + ids[static_cast<size_t>(t)] * D, 4 * D),
        0);
}

}  // namespace
}  // namespace moray::cpu::test
