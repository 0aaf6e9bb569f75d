// octet::Client: what an application links to talk to one router, or to several of one cluster.
// Retries before the first token and resumes a broken stream where it ended, at whichever router
// answers, with the same tokens. A full queue is reported at once, but waited out where a fault has
// sent the request to it.
#ifndef OCTET_CLIENT_CLIENT_H_
#define OCTET_CLIENT_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "octet/v1/cluster.pb.h"
#include "octet/v1/inference.pb.h"

namespace octet {

// Routers that one client may know.
inline constexpr size_t kClientRoutersMax = 16;

struct ClientOptions {
  // Attempts without progress (1..kClientAttemptsMax), each at every router once; a stream that
  // brought a token starts the count anew.
  uint32_t attempts_max = 6;
  Duration backoff_min = Duration::Millis(100);  // doubles up to kClientBackoffMsMax
  Duration timeout;                              // of one call with all its attempts; 0: none
};

// Cancels calls from another thread. Thread-safe; copies share state, and so do all calls that are
// given the same token.
class CancelToken {
 public:
  CancelToken();
  // The calls end with CANCELLED; later calls with this token fail at once.
  void Cancel() const;
  bool cancelled() const;

 private:
  friend class Client;
  struct State;
  std::shared_ptr<State> state_;
};

// Thread-safe; calls block their thread.
class Client {
 public:
  // Receives each event of a stream in order: one `started`, `chunk`s without gaps or repetition,
  // one `finished`, also across resumed streams.
  using EventFn = std::function<void(const octet::v1::GenerateResponse& event)>;

  // `address`: host:port of a router, or up to kClientRoutersMax of them with commas between. Calls
  // ask the one that answered last, and at once another one where it fails. Connects lazily;
  // INVALID_ARGUMENT for a malformed address.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& address,
                                                         const ClientOptions& options = {});
  ~Client();

  // Retried where the failure is UNAVAILABLE, after its RetryInfo or a growing delay; a stream that
  // broke after `started` goes on by request id, seed and index, at a router of the same version:
  // FAILED_PRECONDITION where none of those that answer serves it any more. Other failures come
  // back as the router sent them.
  absl::Status Generate(octet::v1::GenerateRequest request, const EventFn& on_event,
                        const CancelToken& cancel = CancelToken());
  absl::StatusOr<octet::v1::TokenizeResponse> Tokenize(const octet::v1::TokenizeRequest& request);
  absl::StatusOr<octet::v1::DetokenizeResponse> Detokenize(
      const octet::v1::DetokenizeRequest& request);
  absl::StatusOr<octet::v1::GetModelResponse> GetModel();
  // Of the cluster; a coordinator and a router both answer.
  absl::StatusOr<octet::v1::StatusResponse> Status();

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_CLIENT_CLIENT_H_
