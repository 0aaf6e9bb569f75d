// Streams that never end, for tests under faults: each asks for the same answer again and again,
// compares every token with the first answer it got, and notes when tokens came.
#ifndef OCTET_TESTS_FAULT_STREAM_LOAD_H_
#define OCTET_TESTS_FAULT_STREAM_LOAD_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "octet/v1/inference.pb.h"
#include "tests/fault/gap_statistics.h"

namespace octet {

struct StreamLoadOptions {
  size_t streams = 16;
  uint32_t tokens = 200;        // of each answer
  uint32_t prompt_tokens = 24;  // of each question
  // Each answer under a cache salt of its own: a router knows nothing of it from earlier ones.
  bool fresh = false;
  ClientOptions client;
  // Routers of other versions, whose answers count too once streams have moved to such a version.
  std::vector<std::string> other_versions;
};

struct StreamLoadResult {
  uint64_t requests = 0;    // that ended
  uint64_t tokens = 0;      // received
  uint64_t failed = 0;      // ended with an error
  uint64_t data_loss = 0;   // of them: with DATA_LOSS
  uint64_t mismatched = 0;  // whose tokens are not those of the undisturbed answer
  std::string first_error;
  std::map<std::string, uint64_t> answers;  // by the compute digest they began on
  std::vector<StreamGaps> gaps;             // by stream
};

// Prompt `index` of the load, of token ids below `vocab`; sampled for odd indices, and never ended
// by the model.
octet::v1::GenerateRequest LoadRequest(uint32_t index, uint32_t prompt_tokens, uint32_t tokens,
                                       uint32_t vocab);

// Thread-safe.
class StreamLoad {
 public:
  // Asks for every stream's answer once, undisturbed and all at once: what later answers have to
  // equal. Fails with the first error. Of several addresses each stream asks another one first.
  static absl::StatusOr<std::unique_ptr<StreamLoad>> Start(const std::string& address,
                                                           const StreamLoadOptions& options);
  ~StreamLoad();

  // Lets the streams run from now on.
  void Run();
  // Ends after the requests in flight; call once, after Run.
  StreamLoadResult Stop();
  // As of now, without the gaps.
  StreamLoadResult Progress() const;
  // Tokens received so far.
  uint64_t tokens() const { return tokens_.load(); }
  // SHA-256 of all reference answers together.
  std::string ReferenceDigest() const;

 private:
  struct Stream {
    octet::v1::GenerateRequest request;
    std::unique_ptr<Client> client;
    std::map<std::string, std::vector<int32_t>> references;  // by compute digest
    StreamGaps gaps;
    std::thread thread;
  };

  explicit StreamLoad(const StreamLoadOptions& options) : options_(options) {}
  struct Answer {
    std::string digest;
    std::vector<int32_t> tokens;
  };
  absl::StatusOr<Answer> Ask(Stream* stream, Client* client);
  absl::Status AskReferences(const std::string& address);
  void RunStream(Stream* stream);

  const StreamLoadOptions options_;
  const SystemClock clock_{};
  std::vector<Stream> streams_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> tokens_{0};
  std::atomic<uint64_t> salts_{0};
  mutable Mutex mu_;
  StreamLoadResult result_ OCTET_GUARDED_BY(mu_);
};

}  // namespace octet

#endif  // OCTET_TESTS_FAULT_STREAM_LOAD_H_
