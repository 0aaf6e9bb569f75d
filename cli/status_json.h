// A cluster's status as `octet status` prints it. Pure.
#ifndef OCTET_CLI_STATUS_JSON_H_
#define OCTET_CLI_STATUS_JSON_H_

#include <cstddef>
#include <string>
#include <vector>

#include "octet/v1/cluster.pb.h"

namespace octet {

// {"epoch":..,"ready":..,"workers":[{"id","pid","address","state","experts"},...],...}, one line.
std::string StatusToJson(const octet::v1::StatusResponse& status);
// The same for people, several lines. A worker's bar is the rows it has computed, since `before`
// where that is given, against the busiest worker's.
std::string StatusToText(const octet::v1::StatusResponse& status,
                         const octet::v1::StatusResponse* before = nullptr);
// The ready workers that the expert with the fewest of them is on; SIZE_MAX without a placement.
size_t LeastReplicas(const octet::v1::StatusResponse& status);
// What changed between two statuses of a cluster: members that came, went or changed their state,
// the epoch, the coordinator's term.
std::vector<std::string> StatusEvents(const octet::v1::StatusResponse& before,
                                      const octet::v1::StatusResponse& after);

}  // namespace octet

#endif  // OCTET_CLI_STATUS_JSON_H_
