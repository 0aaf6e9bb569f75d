#include "rpc/status_details.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "core/limits.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace octet {
namespace {

constexpr char kOtherVersion[] = "OTHER_VERSION";

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoUrl[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

// Length of the valid UTF-8 sequence at the start of `s`; 0 if there is none.
size_t Utf8SequenceLength(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || s.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool surrogate = lead == 0xED && second >= 0xA0;
  const bool above = lead == 0xF4 && second >= 0x90;
  return overlong || surrogate || above ? 0 : length;
}

// At most kStatusMessageBytesMax bytes of `text`, with '?' for each byte that is not UTF-8.
std::string PrintableMessage(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    const size_t taken = std::max<size_t>(length, 1);
    if (out.size() + taken > kStatusMessageBytesMax) break;
    if (length == 0) {
      out.push_back('?');
    } else {
      out.append(text.data(), length);
    }
    text.remove_prefix(taken);
  }
  return out;
}

template <typename Message>
void SetDetail(absl::Status* status, const char* url, const Message& message) {
  status->SetPayload(url, absl::Cord(message.SerializeAsString()));
}

template <typename Message>
std::optional<Message> GetDetail(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  if (!payload.has_value()) return std::nullopt;
  Message message;
  if (!message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

}  // namespace

void SetErrorDetail(absl::Status* status, absl::string_view reason,
                    const std::map<std::string, std::string>& metadata) {
  google::rpc::ErrorInfo info;
  info.set_reason(PrintableMessage(reason));
  info.set_domain(kErrorDomain);
  for (const auto& entry : metadata) {
    (*info.mutable_metadata())[PrintableMessage(entry.first)] = PrintableMessage(entry.second);
  }
  SetDetail(status, kErrorInfoUrl, info);
}

void SetRetryDelay(absl::Status* status, Duration delay) {
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(delay.ns / 1'000'000'000);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.ns % 1'000'000'000));
  SetDetail(status, kRetryInfoUrl, info);
}

void AddFieldViolation(absl::Status* status, absl::string_view field,
                       absl::string_view description) {
  auto request = GetDetail<google::rpc::BadRequest>(*status, kBadRequestUrl)
                     .value_or(google::rpc::BadRequest());
  auto* violation = request.add_field_violations();
  violation->set_field(PrintableMessage(field));
  violation->set_description(PrintableMessage(description));
  SetDetail(status, kBadRequestUrl, request);
}

absl::Status OtherVersionError(absl::string_view wanted, absl::string_view served) {
  absl::Status status = absl::FailedPreconditionError(
      absl::StrCat("compute_digest: the request belongs to ", wanted, ", this router serves ",
                   served, "; ask a router of that version"));
  SetErrorDetail(&status, kOtherVersion, {{"served", std::string(served)}});
  return status;
}

bool IsOtherVersion(const absl::Status& status) {
  const std::optional<ErrorDetail> detail = GetErrorDetail(status);
  return status.code() == absl::StatusCode::kFailedPrecondition && detail.has_value() &&
         detail->domain == kErrorDomain && detail->reason == kOtherVersion;
}

absl::Status InvalidFieldError(absl::string_view field, absl::string_view description) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
  AddFieldViolation(&status, field, description);
  return status;
}

std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status) {
  const auto info = GetDetail<google::rpc::ErrorInfo>(status, kErrorInfoUrl);
  if (!info.has_value()) return std::nullopt;
  ErrorDetail detail{info->reason(), info->domain(), {}};
  for (const auto& entry : info->metadata()) detail.metadata[entry.first] = entry.second;
  return detail;
}

std::optional<Duration> GetRetryDelay(const absl::Status& status) {
  const auto info = GetDetail<google::rpc::RetryInfo>(status, kRetryInfoUrl);
  if (!info.has_value()) return std::nullopt;
  const int64_t seconds = info->retry_delay().seconds();
  const int64_t nanos = info->retry_delay().nanos();
  const bool valid =
      seconds >= 0 && seconds <= kRetryDelaySecondsMax && nanos >= 0 && nanos < 1'000'000'000;
  if (!valid) return std::nullopt;
  return Duration{seconds * 1'000'000'000 + nanos};
}

std::vector<FieldViolation> GetFieldViolations(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto request = GetDetail<google::rpc::BadRequest>(status, kBadRequestUrl);
  if (!request.has_value()) return violations;
  for (const auto& v : request->field_violations()) {
    violations.push_back({v.field(), v.description()});
  }
  return violations;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = PrintableMessage(status.message());
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  size_t bytes = 0;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    bytes += url.size() + payload.size();
    if (bytes > kStatusDetailBytesMax) return;
    auto* any = details.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  if (details.details_size() == 0) return grpc::Status(code, message);
  return grpc::Status(code, message, details.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const int raw = static_cast<int>(status.error_code());
  const bool known = raw > 0 && raw <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  absl::Status result(known ? static_cast<absl::StatusCode>(raw) : absl::StatusCode::kUnknown,
                      status.error_message());
  google::rpc::Status details;
  if (status.error_details().empty() || !details.ParseFromString(status.error_details())) {
    return result;
  }
  for (const auto& any : details.details()) {
    result.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return result;
}

}  // namespace octet
