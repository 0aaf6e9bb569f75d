// octet.v1 control-plane messages <-> the coordinator's own types. The decoders check everything
// that a peer sent.
#ifndef OCTET_COORDINATOR_CLUSTER_CODEC_H_
#define OCTET_COORDINATOR_CLUSTER_CODEC_H_

#include <map>

#include "absl/status/statusor.h"
#include "coordinator/cluster_state.h"
#include "octet/v1/cluster.pb.h"

namespace octet {

// Both leave `call` unset. INVALID_ARGUMENT with the field attached.
absl::StatusOr<RegisterEvent> DecodeRegister(const octet::v1::RegisterRequest& request);
absl::StatusOr<HeartbeatEvent> DecodeHeartbeat(const octet::v1::HeartbeatRequest& request);

octet::v1::ModelInfo ModelToProto(const ModelSummary& model);
octet::v1::PlacementEvent PlacementEventToProto(const SendPlacementAction& action);
// `loads`: the last report of each member, where there is one.
octet::v1::StatusResponse StatusToProto(const ClusterSnapshot& snapshot,
                                        const std::map<MemberId, octet::v1::LoadReport>& loads);

}  // namespace octet

#endif  // OCTET_COORDINATOR_CLUSTER_CODEC_H_
