#include "transport/nccl/nccl_message.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/limits.h"
#include "core/nccl_limits.h"
#include "core/status_macros.h"
#include "kernels/packed_weights.h"
#include "rpc/expert_codec.h"

namespace octet {
namespace {

constexpr size_t kDispatchLane = static_cast<size_t>(NcclLane::kDispatch);
constexpr size_t kReplyLane = static_cast<size_t>(NcclLane::kReply);

absl::Status DecodeId(const std::string& bytes, const char* field, NcclUniqueId* id) {
  if (bytes.size() != sizeof(id->bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("welcome.", field, ": ", bytes.size(), " bytes, must be ", sizeof(id->bytes)));
  }
  std::memcpy(id->bytes, bytes.data(), sizeof(id->bytes));
  return absl::OkStatus();
}

absl::Status DecodeSizes(uint64_t bucket, uint64_t max, const char* field, NcclSizes* sizes) {
  if (bucket == 0 || bucket > max || max > kNcclTransferBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("welcome.", field, ": buckets of ", bucket,
                                                   " bytes and at most ", max,
                                                   ", allowed are 1 to ", kNcclTransferBytesMax));
  }
  *sizes = {bucket, max};
  return absl::OkStatus();
}

}  // namespace

std::array<NcclSizes, kNcclLanes> NcclSizesOf(const std::vector<WireFormat>& formats) {
  uint64_t row = 0;
  uint64_t reply_row = 0;
  for (const WireFormat& format : formats) {
    row = std::max<uint64_t>(row, format.RowBytes());
    reply_row = std::max<uint64_t>(reply_row, format.ReplyRowBytes());
  }
  const auto sizes = [](uint64_t row_bytes, uint64_t rows) {
    const uint64_t max = std::min(rows * row_bytes, kNcclTransferBytesMax);
    return NcclSizes{std::min(kNcclBucketRows * row_bytes, max), max};
  };
  std::array<NcclSizes, kNcclLanes> all;
  all[kDispatchLane] = sizes(row, kDispatchRowsMax);
  all[kReplyLane] = sizes(reply_row, uint64_t{kDispatchRowsMax} * kTopKMax);
  return all;
}

void EncodeWelcome(const NcclTerms& terms, octet::v1::NcclWelcome* message) {
  message->set_dispatch_id(terms.ids[kDispatchLane].bytes, kNcclUniqueIdBytes);
  message->set_reply_id(terms.ids[kReplyLane].bytes, kNcclUniqueIdBytes);
  message->set_dispatch_bucket_bytes(terms.sizes[kDispatchLane].bucket);
  message->set_reply_bucket_bytes(terms.sizes[kReplyLane].bucket);
  message->set_dispatch_bytes_max(terms.sizes[kDispatchLane].max);
  message->set_reply_bytes_max(terms.sizes[kReplyLane].max);
}

absl::StatusOr<NcclTerms> DecodeWelcome(const octet::v1::NcclWelcome& message) {
  NcclTerms terms;
  const absl::Status checks[] = {
      DecodeId(message.dispatch_id(), "dispatch_id", &terms.ids[kDispatchLane]),
      DecodeId(message.reply_id(), "reply_id", &terms.ids[kReplyLane]),
      DecodeSizes(message.dispatch_bucket_bytes(), message.dispatch_bytes_max(), "dispatch_bytes",
                  &terms.sizes[kDispatchLane]),
      DecodeSizes(message.reply_bucket_bytes(), message.reply_bytes_max(), "reply_bytes",
                  &terms.sizes[kReplyLane]),
  };
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  return terms;
}

void EncodeDispatchHead(const ExpertDispatch& dispatch, octet::v1::Dispatch* message) {
  const WorkerShare& share = *dispatch.share;
  DispatchKeyToProto(dispatch.key, message->mutable_key());
  message->set_epoch(dispatch.epoch.value());
  message->set_compute_digest(*dispatch.compute_digest);
  message->set_model_version(*dispatch.model_version);
  message->set_priority(dispatch.prefill ? octet::v1::PRIORITY_PREFILL
                                         : octet::v1::PRIORITY_DECODE);
  message->set_row_count(static_cast<uint32_t>(share.rows.size()));
  message->clear_experts();
  for (size_t g = 0; g < share.groups.size(); ++g) {
    auto* group = message->add_experts();
    group->set_expert(share.groups[g].expert.value());
    group->mutable_rows()->Add(share.local_rows[g].begin(), share.local_rows[g].end());
  }
}

size_t DispatchRowBytes(const ExpertDispatch& dispatch) {
  return dispatch.share->rows.size() * dispatch.rows.format.RowBytes();
}

uint32_t GatherRows(const ExpertDispatch& dispatch, uint8_t* to) {
  const WireFormat& format = dispatch.rows.format;
  const QuantizedRows& q = dispatch.rows.q;
  uint8_t* out = to;
  const auto put = [&out](const void* from, size_t bytes) {
    std::memcpy(out, from, bytes);
    out += bytes;
  };
  for (const uint32_t row : dispatch.share->rows) {
    if (format.is_integer()) {
      put(q.q + row * q.padded_k, q.padded_k);
    } else {
      put(dispatch.rows.f32.row(row), format.RowBytes());
    }
  }
  if (format.is_integer()) {
    const size_t scales = format.groups();
    for (const uint32_t row : dispatch.share->rows) {
      put(q.scales + row * scales, scales * sizeof(float));
    }
  }
  return Crc32c(to, static_cast<size_t>(out - to));
}

absl::Status GatherDeviceRows(NcclApi* api, NcclStream stream, const WireRows& from,
                              const uint32_t* rows, size_t count, uint8_t* to) {
  const WireFormat& format = from.format;
  if (!format.is_integer()) {
    return api->GatherRows(stream, from.f32.data, format.RowBytes(), rows, count, to);
  }
  const size_t width = format.padded_hidden();
  OCTET_RETURN_IF_ERROR(api->GatherRows(stream, from.q.q, width, rows, count, to));
  return api->GatherRows(stream, from.q.scales, format.groups() * sizeof(float), rows, count,
                         to + count * width);
}

uint32_t EncodeReplyRowsTo(const float* values, size_t rows, const WireFormat& format,
                           uint8_t* to) {
  const size_t count = rows * format.hidden;
  if (format.reply == ReplyDType::kBF16) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t half = F32ToBF16(values[i]);
      std::memcpy(to + i * sizeof(half), &half, sizeof(half));
    }
  } else if (static_cast<const void*>(values) != to) {
    std::memcpy(to, values, count * sizeof(float));
  }
  return Crc32c(to, rows * format.ReplyRowBytes());
}

absl::Status DecodeReplyRows(const uint8_t* bytes, size_t rows, const WireFormat& format,
                             std::optional<uint32_t> checksum, float* to) {
  if (checksum.has_value() && Crc32c(bytes, rows * format.ReplyRowBytes()) != *checksum) {
    return absl::DataLossError("reply.checksum: does not fit the rows");
  }
  const size_t count = rows * format.hidden;
  if (format.reply == ReplyDType::kF32) {
    std::memcpy(to, bytes, count * sizeof(float));
    return absl::OkStatus();
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, bytes + i * sizeof(half), sizeof(half));
    to[i] = BF16ToF32(half);
  }
  return absl::OkStatus();
}

}  // namespace octet
