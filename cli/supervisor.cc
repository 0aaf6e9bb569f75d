#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/log.h"
#include "core/status_macros.h"

namespace octet {
namespace {

constexpr Duration kBackoffMin = Duration::Millis(100);
constexpr Duration kBackoffMax = Duration::Millis(5'000);
constexpr Duration kStableUptime = Duration::Millis(10'000);
// Between a worker's first and second signal when the whole cluster ends.
constexpr Duration kWorkerGrace = Duration::Millis(200);

int PollMillis(Duration d) {
  return static_cast<int>(std::clamp<int64_t>((d.ns + 999'999) / 1'000'000, 0, 60'000));
}

}  // namespace

Duration RestartBackoff::Next(Duration uptime) {
  if (uptime >= kStableUptime || delay_.ns == 0) {
    delay_ = kBackoffMin;
  } else {
    delay_ = std::min(Duration{delay_.ns * 2}, kBackoffMax);
  }
  return delay_;
}

Supervisor::Supervisor(ClusterPlan plan, const Clock* clock,
                       std::function<void(const std::string&)> print)
    : plan_(std::move(plan)), clock_(clock), print_(std::move(print)) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&set, signal);
  OCTET_CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  OCTET_CHECK_GE(signal_fd_, 0);
}

Supervisor::~Supervisor() { close(signal_fd_); }

absl::Status Supervisor::Run() {
  begin_ = clock_->Now();
  members_.push_back({Role::kCoordinator, "coordinator", plan_.coordinator_args, {}, {}, {}});
  absl::Status status = StartMember(&members_[0]);
  const MonotonicTime start_deadline = begin_ + plan_.start_timeout;
  while (status.ok() && stop_signals_ == 0) {
    status = Step(ready_ ? NextDue() : std::min(start_deadline, NextDue()));
    if (status.ok()) status = RestartDue();
    if (status.ok() && ready_ && stop_signals_ == 0) KillByChaos();
    if (status.ok() && !ready_ && clock_->Now() >= start_deadline) {
      status = absl::DeadlineExceededError(
          absl::StrCat("the cluster was not ready within ", plan_.start_timeout.seconds(), " s"));
    }
  }
  StopAll();
  return status;
}

absl::Status Supervisor::StartMember(Member* member) {
  OCTET_ASSIGN_OR_RETURN(auto process, RoleProcess::Start(member->args));
  member->process.emplace(std::move(process));
  member->started = clock_->Now();
  member->restart_at = kNever;
  member->listening_since = kNever;
  return absl::OkStatus();
}

absl::Status Supervisor::StartWorkersAndRouter(const std::string& coordinator) {
  // The coordinator comes back at the same address after a restart.
  members_[0].args.push_back(absl::StrCat("--listen=", coordinator));
  const std::string flag = absl::StrCat("--coordinator=", coordinator);
  for (size_t i = 0; i < plan_.worker_args.size(); ++i) {
    members_.push_back(
        {Role::kWorker, absl::StrCat("worker ", i + 1), plan_.worker_args[i], {}, {}, {}});
  }
  for (size_t i = 0; i < plan_.router_args.size(); ++i) {
    const std::string name =
        plan_.router_args.size() == 1 ? "router" : absl::StrCat("router ", i + 1);
    members_.push_back({Role::kRouter, name, plan_.router_args[i], {}, {}, {}});
  }
  for (size_t i = 1; i < members_.size(); ++i) {
    members_[i].args.push_back(flag);
    OCTET_RETURN_IF_ERROR(StartMember(&members_[i]));
  }
  return absl::OkStatus();
}

absl::Status Supervisor::Step(MonotonicTime until) {
  std::vector<pollfd> fds = {{signal_fd_, POLLIN, 0}};
  for (const Member& member : members_) {
    const bool open = member.process.has_value() && member.process->report_fd() >= 0;
    fds.push_back({open ? member.process->report_fd() : -1, POLLIN, 0});
  }
  const int timeout = until == kNever ? -1 : PollMillis(until - clock_->Now());
  if (poll(fds.data(), fds.size(), timeout) < 0) return absl::OkStatus();  // interrupted
  if (fds[0].revents != 0) ReadSignals();
  const size_t count = members_.size();  // reports may add members
  for (size_t i = 0; i < count; ++i) {
    OCTET_RETURN_IF_ERROR(TakeReports(&members_[i]));
    OCTET_RETURN_IF_ERROR(TakeExit(&members_[i]));
  }
  return absl::OkStatus();
}

absl::Status Supervisor::TakeReports(Member* member) {
  if (!member->process.has_value()) return absl::OkStatus();
  member->process->ReadReports();
  const ReadyState& state = member->process->state();
  if (member->listening_since == kNever && !state.address.empty()) {
    member->listening_since = clock_->Now();
    print_(
        absl::StrFormat("%-12s pid %-8d %s", member->name, member->process->pid(), state.address));
    if (member->role == Role::kCoordinator && members_.size() == 1) {
      const std::string address = state.address;  // the vector may move
      return StartWorkersAndRouter(address);
    }
    // A router comes back at the same address after a restart: clients know it by that.
    if (member->role == Role::kRouter && !ready_) {
      member->args.push_back(absl::StrCat("--listen=", state.address));
    }
  }
  if (!ready_ && member->role == Role::kRouter) NoteReady();
  return absl::OkStatus();
}

void Supervisor::NoteReady() {
  std::vector<std::string> addresses;
  for (const Member& member : members_) {
    if (member.role != Role::kRouter) continue;
    if (!member.process.has_value() || !member.process->state().ready) return;
    addresses.push_back(member.process->state().address);
  }
  ready_ = true;
  print_(absl::StrFormat("ready on %s in %.1f s", absl::StrJoin(addresses, ","),
                         (clock_->Now() - begin_).seconds()));
}

absl::Status Supervisor::TakeExit(Member* member) {
  if (!member->process.has_value() || !member->process->Reap()) return absl::OkStatus();
  const ReadyState state = member->process->state();
  const std::string how = member->process->ExitText();
  const pid_t pid = member->process->pid();
  const bool crashed = member->process->Crashed();
  member->process.reset();
  member->listening_since = kNever;
  if (stop_signals_ > 0) {
    if (crashed) LogError(member->name, " (pid ", pid, ") crashed while it stopped: ", how);
    return absl::OkStatus();
  }
  if (!ready_) {
    if (state.failure.ok()) {
      return absl::InternalError(absl::StrCat(member->name, " ended at the start: ", how));
    }
    return absl::Status(state.failure.code(),
                        absl::StrCat(member->name, ": ", state.failure.message()));
  }
  const Duration delay = member->backoff.Next(clock_->Now() - member->started);
  member->restart_at = clock_->Now() + delay;
  LogWarning(member->name, " (pid ", pid, ") ended with ", how, "; restarting in ", delay.millis(),
             " ms");
  return absl::OkStatus();
}

absl::Status Supervisor::RestartDue() {
  const MonotonicTime now = clock_->Now();
  for (Member& member : members_) {
    if (stop_signals_ > 0 || member.restart_at > now) continue;
    const absl::Status status = StartMember(&member);
    if (!status.ok()) {
      LogWarning(member.name, ": ", status.message());
      member.restart_at = now + kBackoffMax;
    }
  }
  return absl::OkStatus();
}

void Supervisor::KillByChaos() {
  if (!plan_.chaos.has_value()) return;
  std::vector<MonotonicTime> serving_since;
  std::vector<Member*> workers;
  for (Member& member : members_) {
    if (member.role != Role::kWorker) continue;
    workers.push_back(&member);
    serving_since.push_back(member.listening_since);
  }
  const auto victim = plan_.chaos->Next(clock_->Now(), serving_since);
  if (!victim.has_value()) return;
  const RoleProcess& process = *workers[*victim]->process;
  print_(absl::StrFormat("chaos: kill -9 of %s, pid %d", workers[*victim]->name, process.pid()));
  process.Signal(SIGKILL);
}

void Supervisor::ReadSignals() {
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo != SIGCHLD) ++stop_signals_;
  }
}

MonotonicTime Supervisor::NextDue() const {
  MonotonicTime next = ready_ && plan_.chaos.has_value() ? plan_.chaos->due() : kNever;
  for (const Member& member : members_) next = std::min(next, member.restart_at);
  return next;
}

void Supervisor::StopRole(Role role, MonotonicTime deadline) {
  const auto any_running = [&] {
    return std::any_of(members_.begin(), members_.end(),
                       [&](const Member& m) { return m.role == role && m.process.has_value(); });
  };
  for (Member& member : members_) {
    if (member.role == role && member.process.has_value()) member.process->Signal(SIGTERM);
  }
  // A worker hands its experts over before it goes. Here nobody is left to take them.
  MonotonicTime hurry = role == Role::kWorker ? clock_->Now() + kWorkerGrace : kNever;
  bool killed = false;
  while (any_running()) {
    if (clock_->Now() >= hurry) {
      hurry = kNever;
      for (Member& member : members_) {
        if (member.role == role && member.process.has_value()) member.process->Signal(SIGINT);
      }
    }
    if (!killed && (clock_->Now() >= deadline || stop_signals_ > 1)) {
      killed = true;
      for (Member& member : members_) {
        if (member.process.has_value()) member.process->Signal(SIGKILL);
      }
    }
    // Exits are no failures any more.
    (void)Step(killed ? kNever : std::min(hurry, deadline));
  }
}

void Supervisor::StopAll() {
  if (stop_signals_ == 0) stop_signals_ = 1;  // a failed start: nothing is restarted
  const MonotonicTime deadline = clock_->Now() + plan_.stop_timeout;
  // The router first: its requests still need the workers.
  for (const Role role : {Role::kRouter, Role::kWorker, Role::kCoordinator}) {
    StopRole(role, deadline);
  }
}

}  // namespace octet
