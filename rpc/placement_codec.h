// core/placement.h <-> octet.v1.PlacementTable.
#ifndef OCTET_RPC_PLACEMENT_CODEC_H_
#define OCTET_RPC_PLACEMENT_CODEC_H_

#include "absl/status/statusor.h"
#include "core/placement.h"
#include "octet/v1/cluster.pb.h"

namespace octet {

octet::v1::PlacementTable PlacementToProto(const Placement& placement);

// INVALID_ARGUMENT, naming the field, unless: 1..kExpertsMax experts, at most kWorkersMax workers
// with strictly ascending non-zero ids and an address, a digest of 64 lower-case hexadecimal
// characters, and every replica set names listed workers without repetition (it may be empty).
absl::StatusOr<Placement> PlacementFromProto(const octet::v1::PlacementTable& table);

// True for 64 lower-case hexadecimal characters.
bool IsDigest(const std::string& text);

}  // namespace octet

#endif  // OCTET_RPC_PLACEMENT_CODEC_H_
