#include "tests/integration/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "core/check.h"

extern char** environ;

namespace octet {
namespace {

constexpr int kPumpPollMs = 50;
constexpr int kConditionPollMs = 10;
constexpr int64_t kKillWaitMs = 10'000;

std::vector<std::string> Environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (added.count(text.substr(0, text.find('='))) == 0) all.push_back(text);
  }
  for (const auto& entry : added) all.push_back(entry.first + "=" + entry.second);
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::chrono::steady_clock::time_point After(int64_t timeout_ms) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
}

}  // namespace

std::string OctetBinary() { return std::string(OCTET_BINARY_DIR) + "/octet"; }

TemporaryDirectory::TemporaryDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "octet-test-XXXXXX").string();
  OCTET_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

ChildProcess::ChildProcess(const std::vector<std::string>& argv,
                           const std::map<std::string, std::string>& environment) {
  int out[2];
  int err[2];
  OCTET_CHECK(pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  std::vector<std::string> arguments = argv;
  std::vector<std::string> variables = Environment(environment);
  if (posix_spawnp(&pid_, argv[0].c_str(), &actions, &attributes, Pointers(arguments).data(),
                   Pointers(variables).data()) != 0) {
    pid_ = -1;
  }
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  close(err[1]);
  pumps_.emplace_back([this, file = out[0]] { Pump(file, &stdout_text_); });
  pumps_.emplace_back([this, file = err[0]] { Pump(file, &stderr_text_); });
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) {
    // The group, so that what the child started ends too. Its id stays taken until it is reaped.
    kill(-pid_, SIGKILL);
    WaitForExit(kKillWaitMs, nullptr);
  }
  stop_pumps_ = true;
  for (std::thread& pump : pumps_) pump.join();
}

void ChildProcess::Pump(int file, std::string* text) {
  char buffer[4096];
  while (true) {
    pollfd waiting{file, POLLIN, 0};
    const int ready = poll(&waiting, 1, kPumpPollMs);
    if (ready == 0 && stop_pumps_) break;
    if (ready <= 0) continue;
    const ssize_t count = read(file, buffer, sizeof(buffer));
    if (count <= 0) break;
    const MutexLock lock(mutex_);
    text->append(buffer, static_cast<size_t>(count));
    changed_.NotifyAll();
  }
  close(file);
  const MutexLock lock(mutex_);
  --pumps_running_;
  changed_.NotifyAll();
}

void ChildProcess::Signal(int signal_number) const {
  const MutexLock lock(mutex_);
  // Once reaped, the id may be another process's.
  if (pid_ > 0 && !reaped_) kill(pid_, signal_number);
}

bool ChildProcess::Reap() {
  const MutexLock lock(mutex_);
  if (reaped_ || pid_ <= 0) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  reaped_ = true;
  status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return true;
}

bool ChildProcess::WaitForExit(int64_t timeout_ms, int* status) {
  if (!PollUntil([this] { return Reap(); }, timeout_ms)) return false;
  const MutexLock lock(mutex_);
  if (status != nullptr) *status = status_;
  return true;
}

std::string ChildProcess::StdoutText() const {
  const MutexLock lock(mutex_);
  return stdout_text_;
}

std::string ChildProcess::StderrText() const {
  const MutexLock lock(mutex_);
  return stderr_text_;
}

bool ChildProcess::WaitForOutput(const std::string& text, int64_t timeout_ms) const {
  const auto deadline = After(timeout_ms);
  const MutexLock lock(mutex_);
  while (true) {
    if (stdout_text_.find(text) != std::string::npos) return true;
    if (stderr_text_.find(text) != std::string::npos) return true;
    const auto now = std::chrono::steady_clock::now();
    if (pumps_running_ == 0 || now >= deadline) return false;
    changed_.WaitFor(mutex_, deadline - now);
  }
}

ProcessResult RunProcess(const std::vector<std::string>& argv, int64_t timeout_ms,
                         const std::map<std::string, std::string>& environment) {
  ProcessResult result;
  ChildProcess child(argv, environment);
  if (!child.WaitForExit(timeout_ms, &result.exit_code)) {
    result.exit_code = 124;
    kill(-child.pid(), SIGKILL);
  }
  // The pipes may still hold the last lines.
  child.WaitForOutput("\x01never written\x01", 2'000);
  result.stdout_text = child.StdoutText();
  result.stderr_text = child.StderrText();
  return result;
}

bool PollUntil(const std::function<bool()>& condition, int64_t timeout_ms) {
  const auto deadline = After(timeout_ms);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    poll(nullptr, 0, kConditionPollMs);
  }
  return true;
}

bool ProcessAlive(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return false;
  // "pid (name) state ...": the name may contain anything, also brackets.
  const size_t close = text.rfind(')');
  return close != std::string::npos && close + 2 < text.size() && text[close + 2] != 'Z';
}

}  // namespace octet
