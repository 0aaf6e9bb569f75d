// octet.v1.Inference over an Engine, on gRPC's callback API: no reaction blocks, every reaction
// finishes.
#ifndef OCTET_ROUTER_API_INFERENCE_SERVICE_H_
#define OCTET_ROUTER_API_INFERENCE_SERVICE_H_

#include <memory>

#include "core/client_limits.h"
#include "core/clock.h"
#include "octet/v1/inference.grpc.pb.h"
#include "router/api/served_model.h"
#include "router/engine.h"

namespace octet {

// Delay that clients are told with an admitted request's UNAVAILABLE; one that is refused at
// admission gets Engine::RetryDelay.
inline constexpr Duration kRetryAfter = Duration::Millis(500);

// For clients that do not keep up.
struct OutputLimits {
  size_t buffer_bytes_max = kOutputBufferBytesMax;
  Duration read_max = Duration::Millis(kOutputReadMsMax);
};

// Thread-safe. Outlives its server; `engine` and `clock` outlive both.
class InferenceService final : public octet::v1::Inference::CallbackService {
 public:
  InferenceService(std::shared_ptr<const ServedModel> model, Engine* engine, const Clock* clock,
                   const OutputLimits& limits = OutputLimits());

  // A client that does not read has at most kOutputBufferTokensMax tokens in
  // OutputLimits::buffer_bytes_max bytes buffered, and these no longer than `read_max` after the
  // end of its request; then its call is cancelled. A call that is cancelled, past its deadline or
  // disconnected ends its request, which frees its blocks within a step.
  grpc::ServerWriteReactor<octet::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const octet::v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const octet::v1::TokenizeRequest* request,
                                     octet::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const octet::v1::DetokenizeRequest* request,
                                       octet::v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const octet::v1::GetModelRequest* request,
                                     octet::v1::GetModelResponse* response) override;

 private:
  const std::shared_ptr<const ServedModel> model_;
  Engine* const engine_;
  const Clock* const clock_;
  const OutputLimits limits_;
};

}  // namespace octet

#endif  // OCTET_ROUTER_API_INFERENCE_SERVICE_H_
