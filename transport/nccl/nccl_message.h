// What a router and a worker tell each other beside the rows that move over NCCL (docs/wire.md).
#ifndef OCTET_TRANSPORT_NCCL_NCCL_MESSAGE_H_
#define OCTET_TRANSPORT_NCCL_NCCL_MESSAGE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/wire_format.h"
#include "octet/v1/expert.pb.h"
#include "transport/expert_link.h"
#include "transport/nccl/pair.h"

namespace octet {

inline constexpr uint32_t kNcclProtocolVersion = 2;

// Of the transfers of one direction. Decode steps send few rows: they travel in a bucket of fixed
// size, so that the same transfer serves every step. What is larger, or prefill, has its exact
// size.
struct NcclSizes {
  uint64_t bucket = 0;
  uint64_t max = 0;

  uint64_t TransferBytes(uint64_t row_bytes, bool prefill) const {
    return !prefill && row_bytes <= bucket ? bucket : row_bytes;
  }
  bool Allows(uint64_t transfer_bytes) const { return transfer_bytes > 0 && transfer_bytes <= max; }
};

struct NcclTerms {
  std::array<NcclUniqueId, kNcclLanes> ids{};
  std::array<NcclSizes, kNcclLanes> sizes{};
};

// For a model with these formats, one per layer.
std::array<NcclSizes, kNcclLanes> NcclSizesOf(const std::vector<WireFormat>& formats);

void EncodeWelcome(const NcclTerms& terms, octet::v1::NcclWelcome* message);
// INVALID_ARGUMENT, naming the field, for ids of another length and for sizes that are no buckets
// within their greatest, or past kNcclTransferBytesMax.
absl::StatusOr<NcclTerms> DecodeWelcome(const octet::v1::NcclWelcome& message);

// All of a dispatch but its rows and their checksum.
void EncodeDispatchHead(const ExpertDispatch& dispatch, octet::v1::Dispatch* message);
size_t DispatchRowBytes(const ExpertDispatch& dispatch);
// Writes the rows that travel, in wire format: DispatchRowBytes bytes. Returns their CRC-32C.
uint32_t GatherRows(const ExpertDispatch& dispatch, uint8_t* to);
// The same for rows on a device: puts on `stream` what gathers them to `to` there. `rows` is
// share->rows on the device.
absl::Status GatherDeviceRows(NcclApi* api, NcclStream stream, const WireRows& from,
                              const uint32_t* rows, size_t count, uint8_t* to);

// `rows` f32 rows at `values` as the wire's reply type, in place or not. Returns their CRC-32C.
uint32_t EncodeReplyRowsTo(const float* values, size_t rows, const WireFormat& format, uint8_t* to);
// The other way. DATA_LOSS where there is a checksum that does not fit.
absl::Status DecodeReplyRows(const uint8_t* bytes, size_t rows, const WireFormat& format,
                             std::optional<uint32_t> checksum, float* to);

}  // namespace octet

#endif  // OCTET_TRANSPORT_NCCL_NCCL_MESSAGE_H_
