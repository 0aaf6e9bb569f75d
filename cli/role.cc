#include "cli/role.h"

#include <unistd.h>

#include <random>

#include "cli/command.h"
#include "core/log.h"

namespace octet {

RoleStop::RoleStop()
    : signals_([this](int) {
        MutexLock lock(mu_);
        stop_ = true;
        changed_.NotifyAll();
      }) {}

void RoleStop::Wait() {
  MutexLock lock(mu_);
  while (!stop_) changed_.Wait(mu_);
}

void EndOnDeviceFailure(const absl::Status& status) {
  LogError("the device failed, the process ends: ", status.message());
  _exit(kExitDeviceFailed);
}

void EndOnDamage(const absl::Status& status) {
  LogError("weights are damaged, the process ends: ", status.message());
  _exit(kExitDamaged);
}

uint64_t RandomId() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

std::string HostName(const Settings& settings) {
  if (settings.IsSet("host")) return settings.String("host");
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "";
  return name;
}

}  // namespace octet
