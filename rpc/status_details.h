// Failures across gRPC: absl::Status <-> grpc::Status with google.rpc details, both directions.
// Details travel as payloads of absl::Status under their type URL, so code that knows nothing of
// gRPC passes them along. All functions are pure and thread-safe.
#ifndef OCTET_RPC_STATUS_DETAILS_H_
#define OCTET_RPC_STATUS_DETAILS_H_

#include <grpcpp/support/status.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/clock.h"

namespace octet {

// Domain of every ErrorInfo that Octet sends.
inline constexpr char kErrorDomain[] = "octet";

// google.rpc.ErrorInfo: a reason for machines, in UPPER_SNAKE_CASE.
struct ErrorDetail {
  std::string reason;
  std::string domain;
  std::map<std::string, std::string> metadata;
};

// google.rpc.BadRequest.FieldViolation.
struct FieldViolation {
  std::string field;  // path in the request: "sampling.top_p"
  std::string description;
};

// Each sets one detail of a status that is not OK (no effect on an OK one).
void SetErrorDetail(absl::Status* status, absl::string_view reason,
                    const std::map<std::string, std::string>& metadata = {});
void SetRetryDelay(absl::Status* status, Duration delay);
// Appends to the violations there are.
void AddFieldViolation(absl::Status* status, absl::string_view field,
                       absl::string_view description);
// INVALID_ARGUMENT "field: description" with the violation attached.
absl::Status InvalidFieldError(absl::string_view field, absl::string_view description);

// FAILED_PRECONDITION with reason OTHER_VERSION: `served` is not the compute digest asked for.
absl::Status OtherVersionError(absl::string_view wanted, absl::string_view served);
bool IsOtherVersion(const absl::Status& status);

// Each reads one detail; nothing if absent or malformed (it may come from a peer).
std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status);
std::optional<Duration> GetRetryDelay(const absl::Status& status);
std::vector<FieldViolation> GetFieldViolations(const absl::Status& status);

// The message is cut to kStatusMessageBytesMax and made valid UTF-8; details past
// kStatusDetailBytesMax are left out, so that both fit into the metadata of a reply.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace octet

#endif  // OCTET_RPC_STATUS_DETAILS_H_
