// The failure of a worker whose weights turned out to be damaged after it had computed with them:
// not only the present dispatch has no result, earlier results may be wrong.
#ifndef OCTET_CORE_DAMAGED_H_
#define OCTET_CORE_DAMAGED_H_

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace octet {

inline constexpr char kDamagedPayload[] = "octet/damaged";

// DATA_LOSS that IsDamaged tells from others.
inline absl::Status DamagedError(absl::string_view message) {
  absl::Status status = absl::DataLossError(message);
  status.SetPayload(kDamagedPayload, absl::Cord());
  return status;
}

inline bool IsDamaged(const absl::Status& status) {
  return status.GetPayload(kDamagedPayload).has_value();
}

}  // namespace octet

#endif  // OCTET_CORE_DAMAGED_H_
