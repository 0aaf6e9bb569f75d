// For tests only: golden models, an in-process cluster, a tokenizer without files, a sink that
// collects.
#ifndef OCTET_ROUTER_TEST_UTIL_H_
#define OCTET_ROUTER_TEST_UTIL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "core/placement.h"
#include "kernels/exec_context.h"
#include "model/model_package.h"
#include "model/tokenizer/tokenizer.h"
#include "router/engine.h"
#include "router/generation.h"
#include "router/kv_cache.h"
#include "router/transformer.h"
#include "transport/token_dispatcher.h"

namespace octet {

// A fresh directory, removed with all in it at the end.
class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// tests/golden/models/<name>, packed into a new directory below `parent`. CHECKs that it works.
std::shared_ptr<const ModelPackage> PackGolden(const std::string& name, const std::string& parent,
                                               const PackOptions& options);

// What the independent implementation gives for a golden model.
struct Oracle {
  std::vector<TokenId> ids;
  size_t vocab = 0;
  std::vector<float> logits;  // [ids.size()][vocab]
};
Oracle ReadOracle(const std::string& name);

// Ids below 256 are bytes, 256 is "</s>" (special, end of sequence), every other id n is "<n>".
std::unique_ptr<Tokenizer> MakeByteTokenizer(uint32_t vocab);

// Expert i on workers i, i + 1, .. (mod workers), `replication` of them.
std::shared_ptr<const Placement> ChainPlacement(const ModelPackage& package, uint32_t workers,
                                                uint32_t replication, uint64_t epoch = 1);

// Expert workers of this process, each holding what the placement gives it, behind local links.
class LocalCluster {
 public:
  struct Options {
    uint32_t workers = 1;
    uint32_t replication = 1;
    int threads = 1;
    CpuLevel level = CpuLevel::kScalar;
  };
  LocalCluster(std::shared_ptr<const ModelPackage> package, const Options& options,
               const Clock* clock);

  TokenDispatcher* dispatcher() { return dispatcher_.get(); }
  const std::vector<MappedExpert>& experts() const { return experts_; }
  void SetPlacement(std::shared_ptr<const Placement> placement);

 private:
  absl::Status Compute(WorkerId worker, LayerId layer, ExpertId expert, const ExpertInput& input,
                       absl::Span<const uint32_t> rows, TensorF32 out);

  std::shared_ptr<const ModelPackage> package_;
  std::shared_ptr<const Placement> placement_;
  std::vector<MappedExpert> experts_;
  ThreadPool pool_;
  Arena arena_;
  ExecContext ctx_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
};

// A transformer over an in-process cluster of three workers with everything it needs, for the
// logits of every position. One thread.
class LogitModel {
 public:
  static constexpr size_t kStepRows = 256;  // rows of one step, at most

  // Where the router computes; experts beside it on the device, or in the cluster.
  enum class Where { kHost, kCudaRouter, kCudaAll };
  LogitModel(std::shared_ptr<const ModelPackage> package, DType kv_dtype,
             Where where = Where::kHost);

  // Logits [ids.size()][vocab] of all positions, computed in steps of `chunk` <= kStepRows rows,
  // over the cache blocks from `first_block`.
  std::vector<float> Run(const std::vector<TokenId>& ids, size_t chunk, uint32_t first_block = 0);

  KvCache* cache() { return cache_.get(); }

 private:
  SystemClock clock_;
  LocalCluster cluster_;
  ThreadPool pool_;
  Arena arena_;
  std::unique_ptr<KvCache> cache_;  // of kHost
  std::unique_ptr<ForwardPass> transformer_;
  uint64_t step_ = 0;
};

// Thread-safe.
class CollectingSink final : public GenerationSink {
 public:
  void OnChunk(GenerationChunk chunk) override;
  void OnFinished(GenerationResult result) override;
  void OnError(absl::Status status) override;

  // Blocks until the request has ended.
  void WaitEnd();
  // Blocks until `count` tokens have come or the request has ended.
  void WaitTokens(size_t count);

  // After the end.
  std::vector<TokenId> tokens;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<uint32_t> indices;  // of the chunks with tokens
  GenerationResult result;
  absl::Status status;
  int ends = 0;
  int after_end = 0;  // calls that came after the end: must stay 0

 private:
  Mutex mu_;
  CondVar changed_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_TEST_UTIL_H_
