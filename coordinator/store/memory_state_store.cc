#include "coordinator/store/state_store.h"

namespace octet {

absl::Status MemoryStateStore::Save(const DurableState& state) {
  state_ = state;
  return absl::OkStatus();
}

}  // namespace octet
