// Quantising to the w4x formats: see "Quantising weights" in docs/numerics.md.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/w4x.h"

namespace octet {
namespace {

constexpr size_t kGroupMax = 128;
constexpr int kFactorMax = 15;
// Scales below this are 0: their inverse could overflow.
constexpr float kScaleMin = 0x1p-100f;

// Rounds w / scale to [-8, 7] and returns the squared error.
float Quantize(const float* w, size_t count, float scale, int8_t* q) {
  const float inverse = 1.0f / scale;
  float error = 0;
  for (size_t i = 0; i < count; ++i) {
    const float clamped = std::min(std::max(w[i] * inverse, -8.0f), 7.0f);
    const float rounded = (clamped + 12582912.0f) - 12582912.0f;
    const float d = w[i] - rounded * scale;
    error += d * d;
    q[i] = static_cast<int8_t>(rounded);
  }
  return error;
}

// One output: groups of `group` weights, padded with zeros.
struct Row {
  size_t group = 0;
  std::vector<float> w;
  size_t groups() const { return w.size() / group; }
};

struct Candidate {
  float scale = 0;
  double error = -1;  // none yet
  std::vector<int8_t> factors;
  std::vector<int8_t> q;
};

// The magnitude of the scale that suits a group best by itself; 0 for zeros.
float BestScale(const float* w, size_t count) {
  float absmax = 0;
  for (size_t i = 0; i < count; ++i) absmax = std::max(absmax, std::fabs(w[i]));
  float best_scale = 0, best_error = -1;
  for (int step = 0; step < 14; ++step) {
    const float magnitude = absmax / (7.0f + 0.25f * static_cast<float>(step / 2));
    if (magnitude < kScaleMin) return 0;
    int8_t q[kGroupMax];
    const float error = Quantize(w, count, step % 2 == 0 ? magnitude : -magnitude, q);
    if (best_error >= 0 && !(error < best_error)) continue;
    best_error = error;
    best_scale = magnitude;
  }
  return best_scale;
}

// The three factors nearest to `ideal`, of both signs; the smallest error, the first one on ties.
float ChooseFactor(const float* w, size_t count, float scale, float ideal, int8_t* factor,
                   int8_t* q) {
  const int near = static_cast<int>(std::min(ideal, 15.0f) + 0.5f);
  float best = -1;
  for (int magnitude = std::max(1, near - 1); magnitude <= std::min(kFactorMax, near + 1);
       ++magnitude) {
    for (const int sign : {1, -1}) {
      int8_t trial[kGroupMax];
      const float error = Quantize(w, count, scale * static_cast<float>(sign * magnitude), trial);
      if (best >= 0 && !(error < best)) continue;
      best = error;
      *factor = static_cast<int8_t>(sign * magnitude);
      std::memcpy(q, trial, count);
    }
  }
  return best;
}

Candidate WithScale(const Row& row, float scale, const std::vector<float>& ideal) {
  Candidate c;
  c.scale = scale;
  c.error = 0;
  c.factors.resize(row.groups());
  c.q.resize(row.w.size());
  for (size_t g = 0; g < row.groups(); ++g) {
    const size_t at = g * row.group;
    c.error += static_cast<double>(
        ChooseFactor(&row.w[at], row.group, scale, ideal[g] / scale, &c.factors[g], &c.q[at]));
  }
  return c;
}

// The scale that fits the codes of `c` best, with codes for it.
Candidate Refit(const Row& row, const Candidate& c) {
  double dot = 0, square = 0;
  for (size_t i = 0; i < row.w.size(); ++i) {
    const int v = c.factors[i / row.group] * c.q[i];
    dot += static_cast<double>(row.w[i]) * v;
    square += static_cast<double>(v) * v;
  }
  Candidate out = c;
  out.scale = square > 0 ? static_cast<float>(dot / square) : 0.0f;
  if (!(out.scale >= kScaleMin)) return c;
  out.error = 0;
  for (size_t g = 0; g < row.groups(); ++g) {
    const size_t at = g * row.group;
    const float scale = out.scale * static_cast<float>(out.factors[g]);
    out.error += static_cast<double>(Quantize(&row.w[at], row.group, scale, &out.q[at]));
  }
  return out;
}

Candidate Search(const Row& row) {
  std::vector<float> ideal(row.groups());
  for (size_t g = 0; g < ideal.size(); ++g) ideal[g] = BestScale(&row.w[g * row.group], row.group);
  const float greatest = *std::max_element(ideal.begin(), ideal.end());
  Candidate best;
  best.factors.assign(row.groups(), 1);
  best.q.assign(row.w.size(), 0);
  for (int factor = kFactorMax; factor > kFactorMax - 4; --factor) {
    const float scale = greatest / static_cast<float>(factor);
    if (scale < kScaleMin) return best;
    Candidate c = WithScale(row, scale, ideal);
    if (best.error < 0 || c.error < best.error) best = std::move(c);
  }
  for (int i = 0; i < 2; ++i) {
    Candidate c = Refit(row, best);
    if (c.error < best.error) best = std::move(c);
  }
  return best;
}

}  // namespace

void PackW4xRow(const WeightFormat& format, const float* w, size_t k, const PanelLayout& layout,
                size_t lane, uint8_t* panel) {
  Row row;
  row.group = format.group;
  row.w.assign(layout.padded_k, 0.0f);
  std::copy_n(w, k, row.w.begin());
  const Candidate best = Search(row);
  std::memcpy(panel + 4 * lane, &best.scale, 4);
  for (size_t g = 0; g < row.groups(); ++g) {
    panel[layout.second + g * kPanelOutputs + lane] = static_cast<uint8_t>(best.factors[g]);
  }
  for (size_t i = 0; i < layout.padded_k; ++i) {
    SetCode(format, panel + layout.values, i, lane, best.q[i] + format.offset);
  }
}

}  // namespace octet
