// Replies from a worker: any message gives exactly the rows asked for or a failure, and what a
// worker encodes is read back.
// Links: octet_transport_grpc
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "core/crc32c.h"
#include "rpc/expert_codec.h"
#include "transport/grpc/dispatch_message.h"

// The first byte: checksum put right (1), reply type (2), and rows asked for (the rest).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  if (size == 0) return 0;
  octet::WireFormat format;
  format.hidden = 3;
  format.reply = (data[0] & 2) ? octet::ReplyDType::kBF16 : octet::ReplyDType::kF32;
  const size_t rows = data[0] >> 2;
  octet::v1::DispatchReply message;
  if (!message.ParseFromArray(data + 1, static_cast<int>(size - 1))) return 0;
  if (data[0] & 1) {
    message.set_checksum(octet::Crc32c(message.rows().data(), message.rows().size()));
  }
  octet::ReplyPool pool;
  octet::ExpertReply reply;
  octet::DecodeReply(message, format, rows, &pool, &reply);
  OCTET_CHECK(reply.key == octet::DispatchKeyFromProto(message.key()));
  if (!reply.status.ok()) {
    OCTET_CHECK(reply.rows.empty());
    return 0;
  }
  OCTET_CHECK_EQ(reply.rows.size(), rows * format.hidden);
  octet::v1::DispatchReply again;
  octet::EncodeReplyRows(reply.rows.data(), rows, format, &again);
  octet::ExpertReply twice;
  octet::DecodeReply(again, format, rows, nullptr, &twice);
  OCTET_CHECK(twice.status.ok());
  for (size_t i = 0; i < reply.rows.size(); ++i) {
    // Rounding a rounded value changes nothing; NaNs may differ in their bits.
    OCTET_CHECK(std::memcmp(&reply.rows[i], &twice.rows[i], 4) == 0 ||
                reply.rows[i] != reply.rows[i]);
  }
  return 0;
}
