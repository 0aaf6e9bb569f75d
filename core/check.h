// CHECK: stops the process on a broken invariant of our own code, in every build type. Never
// reachable from a peer, a file, the network or a client; those get an absl::Status.
#ifndef OCTET_CORE_CHECK_H_
#define OCTET_CORE_CHECK_H_

#include <sstream>
#include <string>

namespace octet::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

// Collects the streamed detail and stops the process at the end of the statement.
class CheckMessage {
 public:
  CheckMessage(const char* file, int line, const char* condition)
      : file_(file), line_(line), condition_(condition) {}
  [[noreturn]] ~CheckMessage() { CheckFailed(file_, line_, condition_, detail_.str()); }
  std::ostream& stream() { return detail_; }

 private:
  const char* file_;
  int line_;
  const char* condition_;
  std::ostringstream detail_;
};

// Gives both branches of the CHECK expression the type void.
struct CheckVoidify {
  void operator&(std::ostream&) {}
};

}  // namespace octet::internal

#define OCTET_CHECK(condition)              \
  (__builtin_expect(!!(condition), 1))      \
      ? (void)0                             \
      : ::octet::internal::CheckVoidify() & \
            ::octet::internal::CheckMessage(__FILE__, __LINE__, #condition).stream()

#define OCTET_CHECK_OP(op, a, b) OCTET_CHECK((a)op(b))
#define OCTET_CHECK_EQ(a, b) OCTET_CHECK_OP(==, a, b)
#define OCTET_CHECK_NE(a, b) OCTET_CHECK_OP(!=, a, b)
#define OCTET_CHECK_LT(a, b) OCTET_CHECK_OP(<, a, b)
#define OCTET_CHECK_LE(a, b) OCTET_CHECK_OP(<=, a, b)
#define OCTET_CHECK_GT(a, b) OCTET_CHECK_OP(>, a, b)
#define OCTET_CHECK_GE(a, b) OCTET_CHECK_OP(>=, a, b)

#endif  // OCTET_CORE_CHECK_H_
