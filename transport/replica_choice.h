// Which replicas compute the rows of a step: a pure function that keeps the busiest worker, and the
// busiest host, as little busy as it can.
//
// A worker takes max(weight bytes / bandwidth, rows * operations / peak) for each expert it is
// asked for: few rows cost as much as reading the weights, many cost themselves. In rows:
// max(ridge, rows), less the faster the worker is. The workers of one host share its memory, so
// that reads of weights add up there; one that is faster than others reads from faster memory. The
// rows of an expert go to one replica unless sharing them lowers the largest cost: two replicas
// read the weights twice.
#ifndef OCTET_TRANSPORT_REPLICA_CHOICE_H_
#define OCTET_TRANSPORT_REPLICA_CHOICE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/worker_speed.h"

namespace octet {

// A row's cost at speed 1, in the units of ReplicaCost: so fine that dividing it by a speed is
// nearly exact.
inline constexpr uint32_t kReplicaRowCost = 1u << 20;

struct ReplicaWorker {
  uint32_t host = 0;  // numbered from 0, below the number of workers
  uint32_t row_cost = kReplicaRowCost / kWorkerSpeedEqual;  // kReplicaRowCost / its speed
};

struct ReplicaCosts {
  // Rows whose computation takes as long as reading the expert's weights: about 6 with AVX2, 13 to
  // 15 with VNNI. Too high a value splits less.
  uint32_t ridge_rows = 14;
  // Workers of one host that together read at its full bandwidth.
  uint32_t host_readers = 2;
};

// Rows for one expert. `workers` are indices of usable replicas, the preferred first; not empty, no
// index twice, in memory of the caller.
struct ReplicaDemand {
  uint32_t rows = 0;  // > 0
  absl::Span<const uint32_t> workers;
};

// So many rows of a demand for one worker.
struct ReplicaPart {
  uint32_t demand = 0;
  uint32_t worker = 0;
  uint32_t rows = 0;
};

struct ReplicaCost {
  uint64_t largest = 0;         // of a worker or a host, in rows * row_cost * host_readers
  uint64_t largest_worker = 0;  // likewise
  friend auto operator<=>(const ReplicaCost&, const ReplicaCost&) = default;
};

// `workers` are all that parts and demands name by index, here and below.
ReplicaCost CostOf(const std::vector<ReplicaPart>& parts, absl::Span<const ReplicaWorker> workers,
                   const ReplicaCosts& costs);

// One part of each demand for the replica with the fewest rows for its speed so far, in the order
// given; what ChooseReplicas never does worse than.
std::vector<ReplicaPart> ChooseFewestRows(const std::vector<ReplicaDemand>& demands,
                                          absl::Span<const ReplicaWorker> workers);

// Ascending by demand, then worker; at most one part for a demand and worker, all rows of each
// demand. Deterministic. Several parts of one demand only with `may_split`. Work is bounded by
// O((demands + workers) * workers) for a bounded number of replicas.
std::vector<ReplicaPart> ChooseReplicas(const std::vector<ReplicaDemand>& demands,
                                        absl::Span<const ReplicaWorker> workers,
                                        const ReplicaCosts& costs, bool may_split);

}  // namespace octet

#endif  // OCTET_TRANSPORT_REPLICA_CHOICE_H_
