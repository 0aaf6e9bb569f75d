// SIGINT and SIGTERM as ordinary calls on a thread of their own.
#ifndef OCTET_CLI_STOP_SIGNALS_H_
#define OCTET_CLI_STOP_SIGNALS_H_

#include <functional>
#include <thread>

namespace octet {

// Make it before any other thread: the signals are blocked in the calling thread and in those it
// starts. One object a process at a time.
class StopSignals {
 public:
  // `on_signal(count)` runs for each signal, count from 1, on the thread of this object. The second
  // signal ends the process at once with kExitInterrupted, before any call.
  explicit StopSignals(std::function<void(int count)> on_signal);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  void Loop();

  const std::function<void(int)> on_signal_;
  int signal_fd_ = -1;
  int wake_fd_ = -1;
  std::thread thread_;
};

// Blocks SIGINT and SIGTERM in the calling thread, for those who read them from a signalfd.
void BlockStopSignals();

}  // namespace octet

#endif  // OCTET_CLI_STOP_SIGNALS_H_
