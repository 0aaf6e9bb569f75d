// Placements from a peer: any message gives a placement within bounds or an error, and an accepted
// one survives being sent on.
// Links: octet_rpc
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>

#include "core/check.h"
#include "core/limits.h"
#include "rpc/placement_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Text that is not UTF-8 is to be expected here, thousands of times.
  static auto* const logs = google::protobuf::SetLogHandler(nullptr);
  (void)logs;
  octet::v1::PlacementTable table;
  if (!table.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto placement = octet::PlacementFromProto(table);
  if (!placement.ok()) {
    OCTET_CHECK(placement.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  OCTET_CHECK(placement->expert_replicas.size() <= octet::kExpertsMax);
  OCTET_CHECK(placement->workers.size() <= octet::kWorkersMax);
  for (const auto& replicas : placement->expert_replicas) {
    for (octet::WorkerId id : replicas) OCTET_CHECK(placement->FindWorker(id) != nullptr);
  }
  const auto again = octet::PlacementFromProto(octet::PlacementToProto(*placement));
  OCTET_CHECK(again.ok());
  OCTET_CHECK(again->epoch == placement->epoch);
  OCTET_CHECK(again->expert_replicas == placement->expert_replicas);
  return 0;
}
