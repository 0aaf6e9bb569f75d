// Child processes for tests: started without a shell, output captured, always reaped.
#ifndef OCTET_TESTS_INTEGRATION_PROCESS_H_
#define OCTET_TESTS_INTEGRATION_PROCESS_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"

namespace octet {

// Path of the built `octet`.
std::string OctetBinary();

// A fresh directory under the system's temporary one, removed with all it holds.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A running child with its own process group. The destructor kills the group. Thread-safe.
class ChildProcess {
 public:
  // `argv[0]` is looked up in PATH when it has no slash. `environment` is added to this process's.
  // A child that can't be started shows as one that exited with 127.
  explicit ChildProcess(const std::vector<std::string>& argv,
                        const std::map<std::string, std::string>& environment = {});
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal_number) const;
  // Waits until the process ended; false after the deadline. The status is the exit code, or 128
  // plus the signal.
  bool WaitForExit(int64_t timeout_ms, int* status);
  // Everything written so far.
  std::string StdoutText() const;
  std::string StderrText() const;
  // Waits until standard output or error holds `text`; false after the deadline or when both ended.
  bool WaitForOutput(const std::string& text, int64_t timeout_ms) const;

 private:
  // Reads until end of file or stop; a grandchild may hold the pipe open for longer than we care.
  void Pump(int file, std::string* text);
  bool Reap();

  pid_t pid_ = -1;
  std::atomic<bool> stop_pumps_{false};
  mutable Mutex mutex_;
  mutable CondVar changed_;
  std::string stdout_text_ OCTET_GUARDED_BY(mutex_);
  std::string stderr_text_ OCTET_GUARDED_BY(mutex_);
  int pumps_running_ OCTET_GUARDED_BY(mutex_) = 2;
  bool reaped_ OCTET_GUARDED_BY(mutex_) = false;
  int status_ OCTET_GUARDED_BY(mutex_) = 127;
  std::vector<std::thread> pumps_;
};

struct ProcessResult {
  int exit_code = 127;  // 128 + signal; 124 after the timeout
  std::string stdout_text;
  std::string stderr_text;
};
// Runs a command to its end. After the timeout its group is killed.
ProcessResult RunProcess(const std::vector<std::string>& argv, int64_t timeout_ms,
                         const std::map<std::string, std::string>& environment = {});

// Calls `condition` until it is true, waiting a little between calls; false after the deadline. For
// conditions outside this process that nothing announces.
bool PollUntil(const std::function<bool()>& condition, int64_t timeout_ms);

// True while a process with this id exists and is no zombie.
bool ProcessAlive(pid_t pid);

}  // namespace octet

#endif  // OCTET_TESTS_INTEGRATION_PROCESS_H_
