#include "cli/role_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace octet {
namespace {

// Between fork and exec: only calls that are safe there.
[[noreturn]] void ExecChild(pid_t parent, int report_fd, char* const* argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it died before the line above
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  fcntl(report_fd, F_SETFD, 0);
  execv("/proc/self/exe", argv);
  _exit(127);
}

}  // namespace

absl::StatusOr<RoleProcess> RoleProcess::Start(const std::vector<std::string>& args) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot make a pipe: ", strerror(errno)));
  }
  std::vector<std::string> words = {"octet"};
  words.insert(words.end(), args.begin(), args.end());
  words.push_back(absl::StrCat("--ready-fd=", fds[1]));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) ExecChild(parent, fds[1], argv.data());
  close(fds[1]);
  if (pid < 0) {
    close(fds[0]);
    return absl::ResourceExhaustedError(absl::StrCat("cannot make a process: ", strerror(errno)));
  }
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  return RoleProcess(pid, fds[0]);
}

RoleProcess::RoleProcess(RoleProcess&& other) noexcept { *this = std::move(other); }

RoleProcess& RoleProcess::operator=(RoleProcess&& other) noexcept {
  if (this == &other) return *this;
  Release();
  pid_ = std::exchange(other.pid_, -1);
  report_fd_ = std::exchange(other.report_fd_, -1);
  exit_ = other.exit_;
  state_ = std::move(other.state_);
  return *this;
}

RoleProcess::~RoleProcess() { Release(); }

void RoleProcess::Release() {
  if (report_fd_ >= 0) close(report_fd_);
  report_fd_ = -1;
  if (pid_ > 0 && running()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_ = -1;
}

void RoleProcess::ReadReports() {
  char buffer[4096];
  while (report_fd_ >= 0) {
    const ssize_t n = read(report_fd_, buffer, sizeof(buffer));
    if (n > 0) {
      state_.Append(std::string(buffer, static_cast<size_t>(n)));
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      return;
    } else {
      close(report_fd_);
      report_fd_ = -1;
    }
  }
}

void RoleProcess::Signal(int signal) const {
  if (running()) kill(pid_, signal);
}

bool RoleProcess::Reap() {
  if (!running()) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  exit_ = status;
  ReadReports();
  return true;
}

std::string RoleProcess::ExitText() const {
  const int status = exit_.value_or(0);
  if (WIFSIGNALED(status)) {
    return absl::StrCat("signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
  }
  return absl::StrCat("exit code ", WEXITSTATUS(status));
}

bool RoleProcess::Crashed() const {
  const int status = exit_.value_or(0);
  if (!WIFSIGNALED(status)) return false;
  const int signal_number = WTERMSIG(status);
  return signal_number != SIGKILL && signal_number != SIGTERM && signal_number != SIGINT;
}

}  // namespace octet
