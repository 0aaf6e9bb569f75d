#include "transport/nccl/outgoing_rows.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "core/check.h"
#include "core/status_macros.h"
#include "transport/nccl/nccl_api.h"
#include "transport/nccl/nccl_message.h"

namespace octet {
namespace {

// What NcclTransfer::fill is for `g`.
absl::AnyInvocable<absl::Status(NcclApi*, NcclStream)> GatherLater(
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

}  // namespace

absl::StatusOr<OutgoingRows> TakeOutgoingRows(const ExpertDispatch& dispatch, size_t transfer_bytes,
                                              NcclDeviceThread* device) {
  RowPool* const pool = device->pool();
  OutgoingRows out;
  NcclTransfer& transfer = out.transfer;
  transfer.wire_bytes = transfer_bytes;
  // Where it fails the pair is gone, which fails the dispatch.
  transfer.done = [](const absl::Status&, RowPool::Lease) {};
  if (dispatch.rows.device.kind != DeviceKind::kCuda) {
    OCTET_ASSIGN_OR_RETURN(transfer.memory, pool->Take(transfer_bytes));
    transfer.used_bytes = DispatchRowBytes(dispatch);
    out.checksum = GatherRows(dispatch, transfer.memory->host);
    return out;
  }
  OCTET_CHECK_EQ(dispatch.rows.device.index, device->device());
  OCTET_ASSIGN_OR_RETURN(transfer.memory, pool->Take(transfer_bytes, RowPlace::kDevice));
  const std::vector<uint32_t>& rows = dispatch.share->rows;
  const size_t index_bytes = rows.size() * sizeof(uint32_t);
  out.gathering = std::make_shared<Gathering>();
  out.gathering->from = dispatch.rows;
  out.gathering->count = rows.size();
  OCTET_ASSIGN_OR_RETURN(out.gathering->rows, pool->Take(index_bytes));
  std::memcpy(out.gathering->rows->host, rows.data(), index_bytes);
  transfer.fill = GatherLater(out.gathering, static_cast<uint8_t*>(transfer.memory->device));
  // Until then the device reads what was gathered, also after `fill` has run.
  transfer.done = [gathering = out.gathering](const absl::Status&, RowPool::Lease) {};
  return out;
}

}  // namespace octet
