#include "router/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "core/check.h"
#include "core/limits.h"
#include "kernels/kernels.h"
#include "kernels/math.h"
#include "router/philox.h"

namespace octet {

namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Candidates sorted at first, and by how much more when they do not hold enough mass: most draws
// end among the first few.
constexpr size_t kSortFirst = 64;
constexpr size_t kSortGrowth = 8;
// Logits whose greatest is looked at first.
constexpr size_t kPiece = 128;

bool Adjusts(const SampleInput& input) {
  const SamplingSettings& s = *input.settings;
  return !s.logit_bias.empty() || s.repetition_penalty != 1.0f || s.frequency_penalty != 0.0f ||
         s.presence_penalty != 0.0f || !input.forbidden.empty();
}

}  // namespace

Sampler::Sampler(size_t vocab)
    : adjusted_(vocab),
      counts_(vocab),
      weights_(vocab),
      maxima_((vocab + kPiece - 1) / kPiece),
      bounds_(maxima_.size()) {
  candidates_.reserve(vocab);
  mass_.reserve(vocab);
}

absl::Span<const float> Sampler::Adjust(const SampleInput& input) {
  if (!Adjusts(input)) return input.logits;
  const SamplingSettings& s = *input.settings;
  std::copy(input.logits.begin(), input.logits.end(), adjusted_.begin());
  for (const auto& [id, bias] : s.logit_bias) adjusted_[id] += bias;
  if (s.repetition_penalty != 1.0f) {
    const auto penalise = [&](TokenId id) {
      if (counts_[id]++ != 0) return;
      float& l = adjusted_[id];
      l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
    };
    for (const TokenId id : input.prompt) penalise(id);
    for (const TokenId id : input.output) penalise(id);
    for (const TokenId id : input.prompt) counts_[id] = 0;
    for (const TokenId id : input.output) counts_[id] = 0;
  }
  if (s.frequency_penalty != 0.0f || s.presence_penalty != 0.0f) {
    for (const TokenId id : input.output) ++counts_[id];
    for (const TokenId id : input.output) {
      if (counts_[id] == 0) continue;
      adjusted_[id] -= static_cast<float>(counts_[id]) * s.frequency_penalty;
      adjusted_[id] -= s.presence_penalty;
      counts_[id] = 0;
    }
  }
  for (const TokenId id : input.forbidden) adjusted_[id] = kMinusInfinity;
  return adjusted_;
}

TokenId Sampler::Sample(const SampleInput& input) {
  OCTET_CHECK_EQ(input.logits.size(), adjusted_.size());
  const absl::Span<const float> logits = Adjust(input);
  const bool known = input.best.has_value() && logits.data() == input.logits.data();
  const TokenId best = known ? *input.best : ArgMax(logits);
  if (logits[best] == kMinusInfinity) return ArgMax(input.logits);
  const SamplingSettings& s = *input.settings;
  if (s.temperature == 0.0f) return best;
  return Draw(logits, logits[best], s,
              UniformDraw(s.seed, input.choice, static_cast<uint32_t>(input.output.size())));
}

// Makes candidates_ the `count` best of the logits and a few more, in no order. Where `count`
// pieces have a logit as great as some bound, at least as many logits do; pieces without need not
// be looked through.
void Sampler::Take(absl::Span<const float> logits, size_t count) {
  float bound = kMinusInfinity;
  if (count <= maxima_.size()) {
    bounds_ = maxima_;
    const auto last = bounds_.begin() + static_cast<ptrdiff_t>(count) - 1;
    std::nth_element(bounds_.begin(), last, bounds_.end(), std::greater<float>());
    bound = *last;
  }
  candidates_.clear();
  for (size_t p = 0; p < maxima_.size(); ++p) {
    if (maxima_[p] < bound) continue;
    const size_t end = std::min(logits.size(), (p + 1) * kPiece);
    for (size_t i = p * kPiece; i < end; ++i) {
      if (logits[i] >= bound) candidates_.push_back({logits[i], static_cast<TokenId>(i)});
    }
  }
  sorted_ = 0;
}

void Sampler::SortPrefix(absl::Span<const float> logits, size_t count) {
  // A bound that every piece reaches leaves the best few percent; past them all are taken.
  if (count > candidates_.size()) Take(logits, std::max(count, maxima_.size()));
  count = std::min(count, candidates_.size());
  if (count <= sorted_) return;
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto begin = candidates_.begin() + static_cast<ptrdiff_t>(sorted_);
  const auto middle = candidates_.begin() + static_cast<ptrdiff_t>(count);
  if (middle != candidates_.end()) {
    std::nth_element(begin, middle, candidates_.end(), better);
  }
  std::sort(begin, middle, better);
  sorted_ = count;
}

// How far to sort when what is sorted did not do: first what is at hand, then what is cheap to
// take.
size_t Sampler::MoreToSort() const {
  const size_t more = sorted_ * kSortGrowth;
  if (sorted_ < candidates_.size()) return std::min(more, candidates_.size());
  if (sorted_ < maxima_.size()) return std::min(more, maxima_.size());
  return more;
}

// In double, in id order.
double Sampler::TotalWeight(absl::Span<const float> logits, float greatest, float temperature) {
  ExpScaled(logits, greatest, temperature, weights_.data());
  double total = 0;
  for (const float w : weights_) total += static_cast<double>(w);
  return total;
}

// Walks the candidates from the best down, in double. Each filter bounds the walk: top_k by number,
// min_p by weight against the best, top_p by the mass that came before against the mass of what
// top_k left. The draw then falls on the mass that was kept.
TokenId Sampler::Draw(absl::Span<const float> logits, float greatest, const SamplingSettings& s,
                      double u) {
  const size_t vocab = logits.size();
  const size_t keep = s.top_k > 0 ? std::min<size_t>(static_cast<size_t>(s.top_k), vocab) : vocab;
  PieceMaxima(logits, kPiece, maxima_.data());
  Take(logits, kSortFirst);
  SortPrefix(logits, std::min(keep, kSortFirst));
  const auto weight = [&](float logit) {
    return static_cast<double>(ExpF((logit - greatest) / s.temperature));
  };
  double total = 0;  // mass of what top_k left
  if (keep < vocab) {
    SortPrefix(logits, keep);
    for (size_t i = 0; i < keep; ++i) total += weight(candidates_[i].logit);
  } else {
    total = TotalWeight(logits, greatest, s.temperature);
  }
  const bool whole = s.top_p >= 1.0f && s.min_p <= 0.0f;
  const double nucleus = s.top_p >= 1.0f ? std::numeric_limits<double>::infinity()
                                         : static_cast<double>(s.top_p) * total;
  mass_.clear();
  double sum = 0;
  for (size_t i = 0; i < keep; ++i) {
    if (i == sorted_) SortPrefix(logits, std::min(keep, MoreToSort()));
    const double w = weight(candidates_[i].logit);
    if (w == 0.0 || (i > 0 && w < static_cast<double>(s.min_p))) break;
    sum += w;
    mass_.push_back(sum);
    if (sum >= nucleus) break;
    if (whole && sum > u * total) return candidates_[i].id;
  }
  // `sum` and `total` are rounded in different orders, so the walk may end just short of a draw
  // near one: the last candidate takes it.
  const double target = u * (whole ? total : sum);
  const auto at = std::upper_bound(mass_.begin(), mass_.end(), target);
  const size_t chosen = std::min<size_t>(static_cast<size_t>(at - mass_.begin()), mass_.size() - 1);
  return candidates_[chosen].id;
}

TokenLogprob ComputeLogprob(absl::Span<const float> logits, TokenId token, size_t top) {
  OCTET_CHECK_LE(top, size_t{kTopLogprobsMax});
  const float log_sum = LogSumExp(logits);
  TokenLogprob result;
  result.logprob = logits[token] - log_sum;
  top = std::min(top, logits.size());
  if (top == 0) return result;
  // Insertion into a short sorted list; a later equal logit goes behind, so ids ascend on ties.
  std::array<TokenId, kTopLogprobsMax + 1> best;
  size_t held = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (held == top && !(logits[i] > logits[best[held - 1]])) continue;
    size_t at = held < top ? held++ : held - 1;
    for (; at > 0 && logits[i] > logits[best[at - 1]]; --at) best[at] = best[at - 1];
    best[at] = static_cast<TokenId>(i);
  }
  result.top.reserve(top);
  for (size_t i = 0; i < held; ++i) {
    result.top.emplace_back(best[i], logits[best[i]] - log_sum);
  }
  return result;
}

}  // namespace octet
