// A role of the cluster in a process of its own, started from this very binary.
#ifndef OCTET_CLI_ROLE_PROCESS_H_
#define OCTET_CLI_ROLE_PROCESS_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/ready_report.h"

namespace octet {

// Owned and used by one thread, the one that lives as long as the children should: they get SIGKILL
// when it ends. A child has a process group of its own, so that Ctrl-C reaches it through its
// parent alone, in order.
class RoleProcess {
 public:
  // Runs `octet ARGS... --ready-fd=N`. RESOURCE_EXHAUSTED where no process can be made.
  static absl::StatusOr<RoleProcess> Start(const std::vector<std::string>& args);
  RoleProcess(RoleProcess&& other) noexcept;
  RoleProcess& operator=(RoleProcess&& other) noexcept;
  // Kills a child that still runs and waits for its end.
  ~RoleProcess();

  pid_t pid() const { return pid_; }
  // Readable when there is news for ReadReports; -1 after the child closed it.
  int report_fd() const { return report_fd_; }
  // Takes what has arrived. Does not block.
  void ReadReports();
  const ReadyState& state() const { return state_; }

  bool running() const { return !exit_.has_value(); }
  void Signal(int signal) const;
  // True once the child has ended. Does not block.
  bool Reap();
  // "exit code 3", "signal 9 (Killed)"; only after Reap gave true.
  std::string ExitText() const;
  // It ended by a signal that nobody sends to stop a process: its own fault.
  bool Crashed() const;

 private:
  RoleProcess(pid_t pid, int report_fd) : pid_(pid), report_fd_(report_fd) {}
  void Release();

  pid_t pid_ = -1;  // -1: moved from
  int report_fd_ = -1;
  std::optional<int> exit_;  // as from waitpid
  ReadyState state_;
};

}  // namespace octet

#endif  // OCTET_CLI_ROLE_PROCESS_H_
