// What the gates of a model choose over many tokens: load of the experts and sureness of the gate.
#ifndef OCTET_ROUTER_GATE_STATISTICS_H_
#define OCTET_ROUTER_GATE_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/mutex.h"
#include "kernels/kernels.h"

namespace octet {

// One layer, over the rows that were counted.
struct GateLayerStatistics {
  uint64_t rows = 0;
  std::vector<uint64_t> rows_per_expert;  // [experts]; they add up to rows * top_k
  // Mean over the rows of -sum p log2 p, with p the gate's softmax over all experts, before the
  // best are taken: log2(experts) where it does not care, 0 where it is sure.
  double entropy_bits = 0;
  // Load of the busiest expert over the mean load: 1 is perfect balance.
  double max_over_mean = 0;
};

// Thread-safe: the engine's thread adds, others read.
class GateStatistics {
 public:
  GateStatistics(uint32_t layers, uint32_t experts);

  size_t experts() const { return experts_; }
  // Rows before this position of their sequence are left out from now on: what a window of a long
  // text repeats of the one before.
  void CountFrom(uint32_t position);
  // One layer of one step: `positions` [choice.rows], choice.probabilities is set. A step that is
  // run again counts again.
  void Add(LayerId layer, absl::Span<const uint32_t> positions, const TopK& choice);
  // [layer]
  std::vector<GateLayerStatistics> Read() const;

 private:
  const size_t experts_;
  mutable Mutex mu_;
  uint32_t from_ OCTET_GUARDED_BY(mu_) = 0;
  // entropy_bits is the sum while rows are added.
  std::vector<GateLayerStatistics> layers_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_ROUTER_GATE_STATISTICS_H_
