// The step loop and its thread: admits requests, batches them, runs the model, samples, streams.
#ifndef OCTET_ROUTER_ENGINE_H_
#define OCTET_ROUTER_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/clock.h"
#include "core/ids.h"
#include "core/tensor_view.h"
#include "kernels/cuda_library.h"
#include "kernels/exec_context.h"
#include "model/model_package.h"
#include "router/gate_statistics.h"
#include "router/generation.h"
#include "router/kv_tier.h"
#include "transport/token_dispatcher.h"

namespace octet {

struct EngineOptions {
  uint64_t kv_cache_bytes = 256u << 20;
  DType kv_dtype = DType::kF16;  // kF32, kF16 or, on the CPU only, kI8
  bool prefix_cache = true;      // keep full blocks for prompts that begin alike
  // Where full blocks are written and read by other routers too (kv_tier.h); empty: nowhere.
  std::string kv_tier_dir;
  uint64_t kv_tier_bytes = 1u << 30;  // of all files there
  uint32_t context_max = 0;           // 0: the model's
  uint32_t running_max = 64;          // sequences decoded together
  uint32_t waiting_max = 256;         // queued before RESOURCE_EXHAUSTED
  // Tokens, prompts and longest answers, of all that are queued; 0: four times the cache's.
  uint64_t waiting_tokens_max = 0;
  double wait_ms_max = 10'000;     // a request is refused where its first step is further away
  uint32_t step_tokens_max = 512;  // rows of one step
  uint32_t chunk_tokens = 0;       // fixed prefill chunk; 0: follows from itl_ms_max
  double itl_ms_max = 100;  // bound on running requests' inter-token latency while prompts arrive
  // Parts that a step is computed in, so that attention hides the way to the experts: 1, 2, or 0:
  // what has been faster for such steps.
  uint32_t micro_batches = 1;
  int threads = 1;         // of the router's kernels
  std::vector<int> cores;  // that they are pinned to; empty: any
  bool spin = true;        // they wait awake for each other for a moment
  // In place of `threads`: a pool shared with experts that the loop's thread computes itself.
  std::shared_ptr<ThreadPool> pool;
  CpuLevel cpu_level = CpuLevel::kScalar;  // what the kernels use
  // Where the router computes and keeps its cache; tokens do not depend on it. On a CUDA device the
  // experts of `device_experts` are computed there too; else, and always on the CPU, the
  // dispatcher's are. Only read by Start.
  DeviceChoice device;
  const std::vector<MappedExpert>* device_experts = nullptr;
  // The CUDA device from which the dispatcher's links take rows and to which they bring replies, so
  // that a router that computes there copies neither to the host; -1: they are on the host.
  int links_device = -1;
  // Hears, on the engine's thread, of a device that failed for good; may be null.
  std::function<void(const absl::Status&)> on_device_failed;
  // Told what the gates choose, where set; outlives the engine.
  GateStatistics* gate_statistics = nullptr;
  // Test hook: preempts the youngest request every n-th step; 0: only when the cache is full.
  uint32_t preempt_every_steps = 0;
};

struct EngineStats {
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t waiting_tokens = 0;  // prompts and longest answers of those never admitted
  uint64_t kv_blocks_total = 0;
  uint64_t kv_blocks_used = 0;  // by running requests
  uint64_t kv_blocks_idle = 0;  // kept by the prefix cache alone
  KvTierStats kv_tier;
  uint64_t prefix_cache_queries = 0;  // prompt tokens looked for
  uint64_t prefix_cache_hits = 0;     // and found
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t rejections = 0;
  uint64_t steps = 0;
  uint64_t split_steps = 0;  // of them: computed in two parts
};

// Submit, Cancel and stats are thread-safe and never wait for a step.
class Engine {
 public:
  // `dispatcher` and `clock` outlive the engine. RESOURCE_EXHAUSTED where the cache cannot hold one
  // sequence block per layer. INVALID_ARGUMENT names an option out of range. running_max is lowered
  // to step_tokens_max where it is greater.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(std::shared_ptr<const ModelPackage> package,
                                                       RouterWeights weights,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       TokenDispatcher* dispatcher,
                                                       const Clock* clock,
                                                       const EngineOptions& options);
  // Stops the dispatcher and the loop; requests in flight end with CANCELLED.
  ~Engine();

  // Longest prompt plus generation accepted.
  uint32_t context_max() const;
  // Of what decides a token's bits: the package's digest, and the type of the cache where it is not
  // f16. A request goes on, and its keys and values are used, under one such digest only.
  const std::string& compute_digest() const;
  // Validates against the model (ids in range, prompt fits, ...: INVALID_ARGUMENT), then queues.
  // RESOURCE_EXHAUSTED when the queue is full (admission.h), UNAVAILABLE while draining. The sink
  // is kept until its last call.
  absl::StatusOr<RequestId> Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink);
  // The errors of Submit that no request would be spared: to be asked before work is put into
  // one, such as encoding its text. `resumed`: it goes on with an answer that another router began,
  // for which there is more room. Counts as a rejection where it fails.
  absl::Status CheckRoom(bool resumed);
  // After which a client that was refused may try again.
  Duration RetryDelay() const;
  // The request ends with CANCELLED within one step. Unknown ids are ignored.
  void Cancel(RequestId id);
  // A worker found its weights damaged: requests for which it may have computed end with DATA_LOSS
  // before the next step.
  void WorkerDamaged(WorkerId worker);
  // Refuses new requests and returns when those in flight have ended or at `deadline`.
  void Drain(MonotonicTime deadline);
  // As of the end of the last step, so a sink may hear of its request's end just before; Drain
  // returns after.
  EngineStats stats() const;

 private:
  Engine();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_ENGINE_H_
