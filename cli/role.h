// What the long-running roles (router, worker, coordinator) share.
#ifndef OCTET_CLI_ROLE_H_
#define OCTET_CLI_ROLE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "cli/settings.h"
#include "cli/stop_signals.h"
#include "core/mutex.h"

namespace octet {

// Waits for SIGTERM or SIGINT. Make it before any thread; a second signal ends the process at once.
class RoleStop {
 public:
  RoleStop();
  void Wait();

 private:
  Mutex mu_;
  CondVar changed_;
  bool stop_ OCTET_GUARDED_BY(mu_) = false;
  StopSignals signals_;  // last: its thread uses the members above
};

// For a role whose device failed: says so and ends the process at once. Its peers see the broken
// connections, others take its work over, and whoever runs it starts it anew.
void EndOnDeviceFailure(const absl::Status& status);

// For a worker whose weights are damaged: as EndOnDeviceFailure.
void EndOnDamage(const absl::Status& status);

// Random number of this process, so that a restart at the same address is noticed.
uint64_t RandomId();

// `host`, or the name of this machine.
std::string HostName(const Settings& settings);

}  // namespace octet

#endif  // OCTET_CLI_ROLE_H_
