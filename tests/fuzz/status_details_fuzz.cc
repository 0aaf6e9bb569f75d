// Failure details from a peer: reading them never fails, and what is sent on stays in its bounds.
// Links: octet_rpc
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/check.h"
#include "core/limits.h"
#include "rpc/status_details.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  if (size < 2) return 0;
  // Byte 0: the code. Byte 1: how much of the rest is the message.
  const auto code = static_cast<grpc::StatusCode>(data[0] % 20);
  const std::string rest(reinterpret_cast<const char*>(data + 2), size - 2);
  const std::string message = rest.substr(0, data[1]);
  const grpc::Status sent(code, message, rest.substr(message.size()));
  const absl::Status status = octet::FromGrpcStatus(sent);
  OCTET_CHECK(status.ok() == (code == grpc::StatusCode::OK));
  octet::GetErrorDetail(status);
  octet::GetFieldViolations(status);
  if (const auto delay = octet::GetRetryDelay(status); delay.has_value()) {
    OCTET_CHECK(delay->ns >= 0);
    OCTET_CHECK(delay->ns < (octet::kRetryDelaySecondsMax + 1) * 1'000'000'000);
  }
  const grpc::Status again = octet::ToGrpcStatus(status);
  OCTET_CHECK(again.error_message().size() <= octet::kStatusMessageBytesMax);
  return 0;
}
