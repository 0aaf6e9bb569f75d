// What a worker has done, for its reports to the coordinator.
#ifndef OCTET_EXPERT_WORKER_LOAD_COUNTER_H_
#define OCTET_EXPERT_WORKER_LOAD_COUNTER_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/ids.h"

namespace octet {

// Thread-safe; counts since the process started.
class LoadCounter {
 public:
  explicit LoadCounter(uint32_t experts) : rows_(experts) {}

  void AddRows(ExpertId expert, uint64_t rows) { rows_[expert.value()] += rows; }
  void AddDispatch() { ++dispatches_; }
  void AddKernelCall(uint64_t ns) {
    ++kernel_calls_;
    compute_ns_ += ns;
  }

  std::vector<uint64_t> rows_per_expert() const { return {rows_.begin(), rows_.end()}; }
  uint64_t dispatches() const { return dispatches_; }
  // Fewer than (dispatch, expert) pairs where rows of several dispatches were computed together.
  uint64_t kernel_calls() const { return kernel_calls_; }
  uint64_t compute_ns() const { return compute_ns_; }

 private:
  std::vector<std::atomic<uint64_t>> rows_;
  std::atomic<uint64_t> dispatches_{0};
  std::atomic<uint64_t> kernel_calls_{0};
  std::atomic<uint64_t> compute_ns_{0};
};

}  // namespace octet

#endif  // OCTET_EXPERT_WORKER_LOAD_COUNTER_H_
