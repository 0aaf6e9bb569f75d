#include "cli/stop_signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <utility>

#include "cli/command.h"
#include "core/check.h"

namespace octet {
namespace {

sigset_t StopSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t set = StopSet();
  OCTET_CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
}

StopSignals::StopSignals(std::function<void(int)> on_signal) : on_signal_(std::move(on_signal)) {
  BlockStopSignals();
  const sigset_t set = StopSet();
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  OCTET_CHECK(signal_fd_ >= 0 && wake_fd_ >= 0);
  thread_ = std::thread([this] { Loop(); });
}

StopSignals::~StopSignals() {
  const uint64_t one = 1;
  OCTET_CHECK_EQ(write(wake_fd_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  thread_.join();
  close(signal_fd_);
  close(wake_fd_);
}

void StopSignals::Loop() {
  int count = 0;
  while (true) {
    pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) continue;
    if (++count > 1) _exit(kExitInterrupted);
    on_signal_(count);
  }
}

}  // namespace octet
