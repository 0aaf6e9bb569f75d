// The ways between a router and its workers that a user can choose from.
#ifndef OCTET_TRANSPORT_TRANSPORT_KIND_H_
#define OCTET_TRANSPORT_TRANSPORT_KIND_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace octet {

enum class TransportKind : uint8_t {
  kAuto,  // shared memory between processes of one host where it can be set up, else gRPC
  kGrpc,
  kShm,   // shared memory or nothing
  kNccl,  // NCCL between devices, or nothing
};

// "auto", "grpc", "shm" or "nccl"; else INVALID_ARGUMENT.
inline absl::StatusOr<TransportKind> TransportKindFromName(absl::string_view name) {
  if (name == "auto") return TransportKind::kAuto;
  if (name == "grpc") return TransportKind::kGrpc;
  if (name == "shm") return TransportKind::kShm;
  if (name == "nccl") return TransportKind::kNccl;
  return absl::InvalidArgumentError(
      absl::StrCat("transport: ", name, ", allowed are auto, grpc, shm and nccl"));
}

}  // namespace octet

#endif  // OCTET_TRANSPORT_TRANSPORT_KIND_H_
