// Where the coordinator keeps what must outlive it.
#ifndef OCTET_COORDINATOR_STORE_STATE_STORE_H_
#define OCTET_COORDINATOR_STORE_STATE_STORE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/cluster_types.h"

namespace octet {

// One owner thread. Calls block on the disk.
class StateStore {
 public:
  virtual ~StateStore() = default;
  // What was saved last; nothing from an empty store. DATA_LOSS if it is damaged.
  virtual absl::StatusOr<std::optional<DurableState>> Load() = 0;
  // All or nothing; on return of OK it survives a power cut. RESOURCE_EXHAUSTED when the disk is
  // full, UNAVAILABLE for other I/O errors, FAILED_PRECONDITION if the store holds a newer term or
  // epoch. After a failure the store still holds what it held before.
  virtual absl::Status Save(const DurableState& state) = 0;
};

// Forgets everything with the process.
class MemoryStateStore final : public StateStore {
 public:
  absl::StatusOr<std::optional<DurableState>> Load() override { return state_; }
  absl::Status Save(const DurableState& state) override;

 private:
  std::optional<DurableState> state_;
};

// One SQLite file (WAL, synchronous=FULL, mode 0600), locked while open. UNAVAILABLE if it can't be
// opened or another process has it open, DATA_LOSS if it is not such a store.
absl::StatusOr<std::unique_ptr<StateStore>> OpenSqliteStateStore(const std::string& path);

}  // namespace octet

#endif  // OCTET_COORDINATOR_STORE_STATE_STORE_H_
