// Keeps the processes of a local cluster: starts them in order, restarts those that die, ends them
// in order.
#ifndef OCTET_CLI_SUPERVISOR_H_
#define OCTET_CLI_SUPERVISOR_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/chaos_schedule.h"
#include "cli/role_process.h"
#include "core/clock.h"

namespace octet {

// How long a process that died stays down: doubles from 100 ms to 5 s, and starts anew after it
// stayed up for 10 s. Pure.
class RestartBackoff {
 public:
  Duration Next(Duration uptime);

 private:
  Duration delay_{};
};

struct ClusterPlan {
  // Without --listen and --coordinator, which follow from the ports that are free.
  std::vector<std::string> coordinator_args;
  std::vector<std::vector<std::string>> worker_args;
  std::vector<std::vector<std::string>> router_args;  // at least one; with --listen
  Duration start_timeout = Duration::Millis(120'000);
  Duration stop_timeout = Duration::Millis(35'000);  // from SIGTERM to SIGKILL
  std::optional<ChaosSchedule> chaos;                // kills workers; empty: none
};

// Owned by the main thread; Run blocks it. SIGINT, SIGTERM and SIGCHLD must be blocked before any
// other thread starts; Run reads them from a signalfd.
class Supervisor {
 public:
  // `print` gets one line for each process that listens, one when the cluster is ready, and one for
  // each worker that chaos kills.
  Supervisor(ClusterPlan plan, const Clock* clock, std::function<void(const std::string&)> print);
  ~Supervisor();

  // Until a signal (OK) or until the cluster could not start (the failed process's error). All
  // children have ended when it returns. A second signal kills them at once.
  absl::Status Run();

 private:
  enum class Role { kCoordinator, kWorker, kRouter };
  struct Member {
    Role role;
    std::string name;  // "worker 2"
    std::vector<std::string> args;
    std::optional<RoleProcess> process;
    RestartBackoff backoff;
    MonotonicTime started;
    MonotonicTime restart_at = kNever;
    MonotonicTime listening_since = kNever;  // kNever: not listening
  };

  absl::Status StartMember(Member* member);
  absl::Status StartWorkersAndRouter(const std::string& coordinator);
  // One round of news; blocks until there is some or `until`.
  absl::Status Step(MonotonicTime until);
  absl::Status TakeReports(Member* member);
  // The cluster is ready when all routers are.
  void NoteReady();
  absl::Status TakeExit(Member* member);
  absl::Status RestartDue();
  void KillByChaos();
  void ReadSignals();
  void StopRole(Role role, MonotonicTime deadline);
  void StopAll();
  // The next moment at which something is to be done without news.
  MonotonicTime NextDue() const;

  ClusterPlan plan_;  // constant but for the state of its chaos
  const Clock* const clock_;
  const std::function<void(const std::string&)> print_;
  int signal_fd_ = -1;
  int stop_signals_ = 0;
  MonotonicTime begin_;
  bool ready_ = false;
  std::vector<Member> members_;  // coordinator first
};

}  // namespace octet

#endif  // OCTET_CLI_SUPERVISOR_H_
