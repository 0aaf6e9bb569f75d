// Rows of a step that lie on a device, on their way into a transfer.
#ifndef OCTET_TRANSPORT_NCCL_GATHERING_H_
#define OCTET_TRANSPORT_NCCL_GATHERING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "core/status_macros.h"
#include "transport/nccl/nccl_api.h"
#include "transport/nccl/nccl_message.h"
#include "transport/nccl/row_pool.h"
#include "transport/wire_rows.h"

namespace octet {

// A piece of the step's rows, gathered on the device when its turn comes.
struct Gathering {
  WireRows from;
  size_t count = 0;
  RowPool::Lease rows;  // share->rows, on the host and the device
  std::atomic<bool> wanted{true};
};

// What NcclTransfer::fill is for it.
inline absl::AnyInvocable<absl::Status(NcclApi*, NcclStream)> GatherLater(
    std::shared_ptr<const Gathering> g, uint8_t* to) {
  return [g = std::move(g), to](NcclApi* api, NcclStream stream) -> absl::Status {
    // The peer has been told to expect a transfer; what is in it is nobody's.
    if (!g->wanted) return absl::OkStatus();
    const RowMemory& rows = *g->rows;
    OCTET_RETURN_IF_ERROR(api->Copy(stream, rows.device, rows.host, g->count * sizeof(uint32_t)));
    return GatherDeviceRows(api, stream, g->from, static_cast<const uint32_t*>(rows.device),
                            g->count, to);
  };
}

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_GATHERING_H_
