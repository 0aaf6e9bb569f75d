// Names one attempt of one dispatch on the expert wire.
#ifndef OCTET_CORE_DISPATCH_KEY_H_
#define OCTET_CORE_DISPATCH_KEY_H_

#include <cstdint>

#include "core/ids.h"

namespace octet {

// Echoed by the reply, which is dropped unless it names an attempt in flight.
struct DispatchKey {
  RouterId router;
  uint64_t incarnation = 0;  // of the router process
  StepId step;
  uint32_t micro_batch = 0;
  LayerId layer;
  uint32_t attempt = 0;  // serial number of the message within the router process
  friend bool operator==(const DispatchKey&, const DispatchKey&) = default;
};

}  // namespace octet

#endif  // OCTET_CORE_DISPATCH_KEY_H_
