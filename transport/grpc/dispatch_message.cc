#include "transport/grpc/dispatch_message.h"

#include <bit>
#include <cstring>
#include <string>

#include "core/crc32c.h"
#include "kernels/packed_weights.h"
#include "rpc/expert_codec.h"

namespace octet {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

void EncodeDispatch(const ExpertDispatch& dispatch, octet::v1::Dispatch* message) {
  message->Clear();
  const WorkerShare& share = *dispatch.share;
  const WireFormat& format = dispatch.rows.format;
  DispatchKeyToProto(dispatch.key, message->mutable_key());
  message->set_epoch(dispatch.epoch.value());
  message->set_compute_digest(*dispatch.compute_digest);
  message->set_model_version(*dispatch.model_version);
  message->set_priority(dispatch.prefill ? octet::v1::PRIORITY_PREFILL
                                         : octet::v1::PRIORITY_DECODE);
  message->set_row_count(static_cast<uint32_t>(share.rows.size()));
  std::string* bytes = message->mutable_rows();
  bytes->resize(share.rows.size() * format.RowBytes());
  char* out = bytes->data();
  if (format.is_integer()) {
    const QuantizedRows& q = dispatch.rows.q;
    for (const uint32_t row : share.rows) {
      std::memcpy(out, q.q + row * q.padded_k, q.padded_k);
      out += q.padded_k;
    }
    const size_t scales = format.groups();
    for (const uint32_t row : share.rows) {
      std::memcpy(out, q.scales + row * scales, scales * sizeof(float));
      out += scales * sizeof(float);
    }
  } else {
    for (const uint32_t row : share.rows) {
      std::memcpy(out, dispatch.rows.f32.row(row), format.RowBytes());
      out += format.RowBytes();
    }
  }
  message->set_checksum(Crc32c(bytes->data(), bytes->size()));
  for (size_t g = 0; g < share.groups.size(); ++g) {
    auto* rows = message->add_experts();
    rows->set_expert(share.groups[g].expert.value());
    rows->mutable_rows()->Add(share.local_rows[g].begin(), share.local_rows[g].end());
  }
  Seal(message);
}

void EncodeReplyRows(const float* rows, size_t count, const WireFormat& format,
                     octet::v1::DispatchReply* message) {
  std::string* bytes = message->mutable_rows();
  bytes->resize(count * format.ReplyRowBytes());
  if (format.reply == ReplyDType::kF32) {
    if (!bytes->empty()) std::memcpy(bytes->data(), rows, bytes->size());
  } else {
    char* out = bytes->data();
    for (size_t i = 0; i < count * format.hidden; ++i) {
      const uint16_t half = F32ToBF16(rows[i]);
      std::memcpy(out + 2 * i, &half, 2);
    }
  }
  message->set_checksum(Crc32c(bytes->data(), bytes->size()));
}

void DecodeReply(const octet::v1::DispatchReply& message, const WireFormat& format, size_t rows,
                 ReplyPool* pool, ExpertReply* reply) {
  reply->key = DispatchKeyFromProto(message.key());
  reply->compute_ns = message.compute_ns();
  reply->queue_ns = message.queue_ns();
  reply->status = ValidateReply(message, format, rows);
  if (!reply->status.ok()) return;
  const size_t floats = rows * format.hidden;
  reply->rows = pool != nullptr ? pool->Take(floats) : std::vector<float>(floats);
  if (floats == 0) return;
  const char* bytes = message.rows().data();
  if (format.reply == ReplyDType::kF32) {
    std::memcpy(reply->rows.data(), bytes, floats * sizeof(float));
    return;
  }
  for (size_t i = 0; i < floats; ++i) {
    uint16_t half;
    std::memcpy(&half, bytes + 2 * i, 2);
    reply->rows[i] = BF16ToF32(half);
  }
}

}  // namespace octet
