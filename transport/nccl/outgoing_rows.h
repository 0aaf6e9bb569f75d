// The rows of a dispatch on their way into a transfer: from the host gathered at once, from a
// device by the device when their turn comes.
#ifndef OCTET_TRANSPORT_NCCL_OUTGOING_ROWS_H_
#define OCTET_TRANSPORT_NCCL_OUTGOING_ROWS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "transport/expert_link.h"
#include "transport/nccl/device_thread.h"
#include "transport/nccl/pair.h"
#include "transport/nccl/row_pool.h"
#include "transport/wire_rows.h"

namespace octet {

// What the device gathers.
struct Gathering {
  WireRows from;
  size_t count = 0;
  RowPool::Lease rows;  // share->rows, on the host and the device
  // False once the dispatch is answered or given up: `from` is no longer the link's to read.
  std::atomic<bool> wanted{true};
};

struct OutgoingRows {
  NcclTransfer transfer;                 // to be submitted; its `done` does nothing but let go
  std::optional<uint32_t> checksum;      // of rows on the host
  std::shared_ptr<Gathering> gathering;  // of rows on the device, else null
};

// Takes the memory of `dispatch`'s rows, which are the host's or on `device`. RESOURCE_EXHAUSTED
// as RowPool::Take. Not on the device's thread.
absl::StatusOr<OutgoingRows> TakeOutgoingRows(const ExpertDispatch& dispatch, size_t transfer_bytes,
                                              NcclDeviceThread* device);

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_OUTGOING_ROWS_H_
