#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/limits.h"
#include "kernels/dispatch.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "kernels/reference/reference.h"

namespace octet {
namespace {

using SoftmaxFn = void (*)(float* x, size_t n);

SoftmaxFn SoftmaxOf(const ExecContext& ctx) {
  const KernelTable* table = FastKernels(ctx.level);
  return table != nullptr ? table->softmax : reference::Softmax;
}

// Row r of `out` from its logits (clobbered): softmax, the k best with ties to the lower id,
// renormalised.
void ChooseExperts(SoftmaxFn softmax, float* logits, size_t experts, size_t r, const TopK& out) {
  const size_t k = out.k;
  uint32_t* ids = out.experts + r * k;
  float* weights = out.weights + r * k;
  softmax(logits, experts);
  if (out.probabilities != nullptr) std::copy_n(logits, experts, out.probabilities + r * experts);
  bool taken[kExpertsMax] = {};
  float sum = 0.0f;
  for (size_t slot = 0; slot < k; ++slot) {
    size_t best = experts;
    for (size_t e = 0; e < experts; ++e) {
      if (taken[e]) continue;
      if (best == experts || logits[e] > logits[best]) best = e;
    }
    taken[best] = true;
    ids[slot] = static_cast<uint32_t>(best);
    weights[slot] = logits[best];
    sum += logits[best];
  }
  for (size_t slot = 0; slot < k; ++slot) weights[slot] /= sum;
}

// logits_i = sum over j of softmax_j(q_i k_j) v_j.
void AttendExperts(SoftmaxFn softmax, const float* q, const float* k, const float* v,
                   size_t experts, float* logits) {
  float a[kExpertsMax];
  for (size_t i = 0; i < experts; ++i) {
    for (size_t j = 0; j < experts; ++j) a[j] = q[i] * k[j];
    softmax(a, experts);
    float sum = 0.0f;
    for (size_t j = 0; j < experts; ++j) sum = std::fma(a[j], v[j], sum);
    logits[i] = sum;
  }
}

void CheckGate(const PackedWeights& w, ConstTensorF32 x, const TopK& out) {
  OCTET_CHECK_EQ(out.rows, x.rows);
  OCTET_CHECK(out.k >= 1 && out.k <= w.n && w.n <= kExpertsMax);
}

}  // namespace

void GateLinear(const ExecContext& ctx, const PackedWeights& w, ConstTensorF32 x, const TopK& out) {
  CheckGate(w, x, out);
  Scratch scratch(ctx);
  const TensorF32 logits(scratch.Alloc<float>(x.rows * w.n), x.rows, w.n);
  MatMul(ctx, w, x, logits);
  const SoftmaxFn softmax = SoftmaxOf(ctx);
  ParallelRange(ctx, x.rows, 64, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      ChooseExperts(softmax, logits.row(r), w.n, r, out);
    }
  });
}

void GateAttention(const ExecContext& ctx, const PackedWeights& wq, const PackedWeights& wk,
                   const PackedWeights& wv, ConstTensorF32 x, const TopK& out) {
  CheckGate(wq, x, out);
  OCTET_CHECK(wk.n == wq.n && wv.n == wq.n);
  const size_t experts = wq.n;
  Scratch scratch(ctx);
  const TensorF32 q(scratch.Alloc<float>(x.rows * experts), x.rows, experts);
  const TensorF32 k(scratch.Alloc<float>(x.rows * experts), x.rows, experts);
  const TensorF32 v(scratch.Alloc<float>(x.rows * experts), x.rows, experts);
  MatMul(ctx, wq, x, q);
  MatMul(ctx, wk, x, k);
  MatMul(ctx, wv, x, v);
  const SoftmaxFn softmax = SoftmaxOf(ctx);
  ParallelRange(ctx, x.rows, 8192 / (experts * experts) + 1, [&](size_t begin, size_t end, int) {
    float logits[kExpertsMax];
    for (size_t r = begin; r < end; ++r) {
      AttendExperts(softmax, q.row(r), k.row(r), v.row(r), experts, logits);
      ChooseExperts(softmax, logits, experts, r, out);
    }
  });
}

}  // namespace octet
