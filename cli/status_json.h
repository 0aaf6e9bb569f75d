// A cluster's status as `octet status` prints it. Pure.
#ifndef OCTET_CLI_STATUS_JSON_H_
#define OCTET_CLI_STATUS_JSON_H_

#include <string>

#include "octet/v1/cluster.pb.h"

namespace octet {

// {"epoch":..,"ready":..,"workers":[{"id","pid","address","state","experts"},...],...}, one line.
std::string StatusToJson(const octet::v1::StatusResponse& status);
// The same for people, several lines.
std::string StatusToText(const octet::v1::StatusResponse& status);

}  // namespace octet

#endif  // OCTET_CLI_STATUS_JSON_H_
