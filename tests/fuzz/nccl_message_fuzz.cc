// What a worker says beside rows that move over NCCL: terms are refused with the field's name or
// within their bounds, and rows of any bytes are read within their memory.
// Links: octet_transport_nccl_link
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/check.h"
#include "core/nccl_limits.h"
#include "octet/v1/expert.pb.h"
#include "transport/nccl/nccl_message.h"

namespace {

void TakeWelcome(const octet::v1::NcclWelcome& message) {
  const auto terms = octet::DecodeWelcome(message);
  if (!terms.ok()) {
    OCTET_CHECK(absl::IsInvalidArgument(terms.status()));
    OCTET_CHECK(!terms.status().message().empty());
    return;
  }
  for (const octet::NcclSizes& sizes : terms->sizes) {
    OCTET_CHECK(sizes.max <= octet::kNcclTransferBytesMax);
    OCTET_CHECK(sizes.bucket <= sizes.max);
    OCTET_CHECK(!sizes.Allows(0) && !sizes.Allows(sizes.max + 1));
  }
  octet::v1::NcclWelcome again;
  octet::EncodeWelcome(*terms, &again);
  OCTET_CHECK(octet::DecodeWelcome(again).ok());
}

// Rows are exactly as many bytes as their number says, whatever the message claimed.
void TakeRows(const octet::v1::DispatchReply& reply, const uint8_t* data, size_t size) {
  octet::WireFormat format;
  format.hidden = 3;
  format.reply = reply.compute_ns() % 2 == 0 ? octet::ReplyDType::kBF16 : octet::ReplyDType::kF32;
  const size_t row_bytes = format.hidden * (format.reply == octet::ReplyDType::kBF16 ? 2 : 4);
  const size_t rows = size / row_bytes;
  const std::vector<uint8_t> bytes(data, data + rows * row_bytes);
  std::vector<float> values(rows * format.hidden);
  const absl::Status status =
      octet::DecodeReplyRows(bytes.data(), rows, format, reply.checksum(), values.data());
  OCTET_CHECK(status.ok() || absl::IsDataLoss(status));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  octet::v1::NcclFromWorker message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  if (message.has_welcome()) TakeWelcome(message.welcome());
  if (message.has_reply()) TakeRows(message.reply(), data, size);
  return 0;
}
