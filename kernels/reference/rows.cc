#include <cmath>
#include <limits>

#include "kernels/math.h"
#include "kernels/reference/reference.h"

namespace octet::reference {
float SumLanes(float (&lanes)[kLanes]) {
  for (size_t width = kLanes / 2; width >= 1; width /= 2) {
    for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

float SumExp(const float* x, size_t n, float max) {
  float lanes[kLanes] = {};
  for (size_t i = 0; i < n; ++i) lanes[i % kLanes] += ExpF(x[i] - max);
  return SumLanes(lanes);
}

float Max(const float* x, size_t n) {
  float max = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

void AddRow(const float* x, size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) y[i] = x[i] + y[i];
}

void SiluMul(const float* gate, const float* up, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + ExpF(-gate[i])) * up[i];
}

void Softmax(float* x, size_t n) {
  const float max = Max(x, n);
  const float sum = SumExp(x, n, max);
  for (size_t i = 0; i < n; ++i) x[i] = ExpF(x[i] - max) / sum;
}

void RmsNormRow(const float* x, const float* weight, size_t n, float eps, float* y) {
  float lanes[kLanes] = {};
  for (size_t i = 0; i < n; ++i) lanes[i % kLanes] = std::fma(x[i], x[i], lanes[i % kLanes]);
  const float mean = SumLanes(lanes) / static_cast<float>(n);
  const float inverse = 1.0f / std::sqrt(mean + eps);
  for (size_t i = 0; i < n; ++i) y[i] = (x[i] * inverse) * weight[i];
}

void RopeHead(const float* cos_row, const float* sin_row, size_t half, float* x) {
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    x[i] = std::fma(a, cos_row[i], -(b * sin_row[i]));
    x[i + half] = std::fma(b, cos_row[i], a * sin_row[i]);
  }
}

void CombineRow(const float* x, size_t k, const float* weights, const float* const* replies,
                size_t n, float* y) {
  for (size_t i = 0; i < n; ++i) {
    float acc = weights[0] * replies[0][i];
    for (size_t s = 1; s < k; ++s) acc = std::fma(weights[s], replies[s][i], acc);
    y[i] = x[i] + acc;
  }
}

}  // namespace octet::reference
