// One role of a cluster as a process, for scenarios that start the roles one by one.
#ifndef OCTET_TESTS_FAULT_ROLE_PROCESS_H_
#define OCTET_TESTS_FAULT_ROLE_PROCESS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/integration/process.h"

namespace octet {

// A process that is started again and again at the address it had first. One thread.
class RoleProcess {
 public:
  // `args`: of the octet binary, the role first.
  explicit RoleProcess(std::vector<std::string> args) : args_(std::move(args)) {}

  // With `flags` after the fixed arguments; waits until it listens.
  absl::Status Start(const std::vector<std::string>& flags);
  // Asks it to end, unless it does so by itself, and waits until it has. INTERNAL for another exit
  // status than `expected`.
  absl::Status End() { return WaitForEnd(/*ask=*/true, 0); }
  absl::Status WaitForEnd(bool ask, int expected);

  // host:port, once it was started.
  const std::string& address() const { return address_; }
  std::string Log() const { return process_->StderrText(); }

 private:
  const std::vector<std::string> args_;
  std::string address_ = "127.0.0.1:0";
  std::unique_ptr<ChildProcess> process_;
};

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_ROLE_PROCESS_H_
